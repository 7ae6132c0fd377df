"""The motion suites' numbers: optical flow and dynamic degree of each clip, fidelity beside them.

A clip is scored on its own; memory holds one, and the next, which is read meanwhile.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdmd.errors import UserError, suggest
from pdmd.media import Video, read_video
from pdmd.sprites import reader

from . import frechet, metrics, pictures
from .features import weights
from .features.dis import Dis
from .features.flow import FlowEstimator
from .features.sprites import SpritesEncoder
from .generate import Sample
from .result import KINDS, Metric, Missing, no_fidelity, summarise
from .score import Item, Media, Scored, Track, fidelity, overlapped

if TYPE_CHECKING:
    from .features.vbench import VBench

IMPLEMENTATIONS = ("pdmd", "vbench")  # of dynamic degree


@dataclass
class Clip(Item):
    """A scored clip. `interval`: VBench keeps every so many-th frame; `scores` are its scores of the kept
    pairs, pixels; `quirk` is what must be said of its verdict; `flow_read` is the mean flow by the embedded world's
    own reader, None where that sees no objects."""

    interval: int = 0
    estimator: str = ""
    scores: tuple[float, ...] = ()
    quirk: str | None = None
    flow_read: float | None = None

    @property
    def extra(self) -> Mapping[str, object]:
        own = {"interval": self.interval, "pair_scores": " ".join(f"{s:.6g}" for s in self.scores)}
        return own if self.flow_read is None else own | {"flow_read": f"{self.flow_read:.6g}"}


class Motion:
    """Scores clips with an optical-flow estimator: RAFT, or DIS under its own metric names. VBench, where given,
    takes the place of our own dynamic degree; the `encoder` sets clips of the embedded world against the base's."""

    def __init__(
        self, estimator: FlowEstimator, vbench: VBench | None = None, encoder: SpritesEncoder | None = None
    ) -> None:
        self.estimator, self.vbench, self.encoder = estimator, vbench, encoder

    def provenance(self) -> dict[str, Any]:
        second = {"dynamic_degree": self.vbench.provenance()} if self.vbench else {}
        third = {"sprites_encoder": self.encoder.provenance()} if self.encoder else {}
        return {"flow": self.estimator.provenance()} | second | third

    def score(self, media: Media, track: Track) -> Scored:
        read = partial(read_clip, media, self.estimator, self.encoder)
        one = overlapped(media.samples, read, partial(measure_clip, self.estimator, self.vbench))
        clips: list[Clip] = list(track(one, len(media.samples), metric_names(media, self.estimator)))
        expected = media.prompts * media.seeds or len(media.samples)
        found, missing = self._summary(clips, expected, media)
        return Scored(clips, (), expected, found, missing)

    def draw(self, media: Media, scored: Scored) -> dict[str, str]:
        name = "optical_flow" + self.estimator.suffix
        flows = [item.values[name] for item in scored.items if name in item.values]
        if not flows:
            return {}
        pictures.draw_clips(media.out / "clips.png", media.folder, scored.items, name)
        pictures.draw_flow(media.out / "flow.png", flows, KINDS["optical_flow"].unit)
        return {"clips.png": "Clips from least to most flow, first to last frame", "flow.png": "Mean flow of the clips"}

    def _summary(self, clips: Sequence[Clip], expected: int, media: Media) -> tuple[list[Metric], list[Missing]]:
        """The suite's metrics over all clips, each weighing the same, and those that are missing."""
        found: list[Metric] = []
        missing: list[Missing] = []
        labels = "; ".join(sorted({clip.estimator for clip in clips if clip.estimator})) or self.estimator.suffix
        for base in ("fidelity", "optical_flow", "dynamic_degree"):
            name = base if base == "fidelity" else base + self.estimator.suffix
            if name == "fidelity" and media.domain != "sprites":
                missing.append(no_fidelity(media.domain))
                continue
            values = [clip.values[name] for clip in clips if name in clip.values]
            if name != base:
                command = f"{weights.fetch_command('raft')} && {media.command}"
                missing.append(Missing(base, weights.absence("raft"), command))
            if not values:
                reason = next((clip.problems[name] for clip in clips if name in clip.problems), "no sample was made")
                missing.append(Missing(name, f"no sample could be scored ({reason})", media.command))
                continue
            comparable = base != "fidelity" and media.domain == "open" and self.estimator.comparable()
            estimator = reader.NAME if base == "fidelity" else labels
            if base == "dynamic_degree" and self.vbench:
                estimator = self.vbench.label()
            details = _details(base, values, clips)
            found.append(summarise(name, values, expected, estimator, comparable, details))
        frechet.add(found, missing, clips, media, expected, self.encoder)
        return found, missing


def make(given: Mapping[str, Path], device: str = "cpu", dynamic_degree: str = "pdmd") -> Motion:
    """The motion scorer on RAFT where its weights are given or cached, else on DIS; dynamic degree by one of
    IMPLEMENTATIONS. Raises UserError for bad weights, and where VBench or the weights that it needs are absent."""
    if dynamic_degree not in IMPLEMENTATIONS:
        raise UserError(f"no dynamic degree {dynamic_degree!r}: {suggest(dynamic_degree, IMPLEMENTATIONS)}")
    path = weights.find("raft", given)
    if path is None:
        if dynamic_degree == "vbench":
            get = weights.fetch_command("raft")
            raise UserError(f"--dynamic-degree vbench: {weights.absence('raft')}; get them by {get}")
        return Motion(Dis(), encoder=SpritesEncoder(device=device))
    from .features.raft import Raft  # torchvision is slow to import, and only needed here
    from .features.vbench import VBench

    second = VBench(path, device) if dynamic_degree == "vbench" else None
    return Motion(Raft(path, device), second, SpritesEncoder(device=device))


def metric_names(media: Media, estimator: FlowEstimator) -> list[str]:
    """The metrics of a clip: fidelity (embedded world only), optical flow and dynamic degree."""
    own = ["fidelity"] if media.domain == "sprites" else []
    return [*own, "optical_flow" + estimator.suffix, "dynamic_degree" + estimator.suffix]


def score_clip(
    media: Media,
    sample: Sample,
    estimator: FlowEstimator,
    vbench: VBench | None = None,
    encoder: SpritesEncoder | None = None,
) -> Clip:
    """Score one clip."""
    return measure_clip(estimator, vbench, read_clip(media, estimator, encoder, sample))


@dataclass
class ReadClip:
    """A clip as read: what it shows is known, its motion is not. Its file and frames, None where it cannot be read."""

    clip: Clip
    path: Path | None = None
    video: Video | None = None


def read_clip(media: Media, estimator: FlowEstimator, encoder: SpritesEncoder | None, sample: Sample) -> ReadClip:
    """Read one clip, and what the embedded world's reader and encoder see in it."""
    clip = Clip(sample.id, sample.seed, sample.prompt, sample.file)
    try:
        path = media.file_of(sample)
        video = read_video(path)
    except UserError as error:
        clip.problems = dict.fromkeys(metric_names(media, estimator), str(error))
        return ReadClip(clip)
    clip.frames, clip.height, clip.width = video.frames.shape[:3]
    clip.fps, clip.estimator = str(video.fps or ""), estimator.label(clip.height, clip.width)
    if media.domain == "sprites":
        try:
            seen = reader.read(video.frames)
            clip.flow_read = reader.mean_flow(seen)
            clip.values["fidelity"] = fidelity(sample.prompt, seen, media.shown.get(sample.id, ""))
        except ValueError as error:
            clip.problems["fidelity"] = str(error)
        frechet.embed(clip, video.frames, encoder)
    return ReadClip(clip, path, video)


def measure_clip(estimator: FlowEstimator, vbench: VBench | None, read: ReadClip) -> Clip:
    """The clip with its motion."""
    clip, names = read.clip, [base + estimator.suffix for base in ("optical_flow", "dynamic_degree")]
    if read.path is None or read.video is None:
        return clip
    try:
        _motion(clip, read.path, read.video, estimator, vbench, *names)
    except ValueError as error:
        clip.problems |= {name: str(error) for name in names if name not in clip.values}
    return clip


def _motion(
    clip: Clip,
    path: Path,
    video: Video,
    estimator: FlowEstimator,
    vbench: VBench | None,
    flow_name: str,
    dynamic_name: str,
) -> None:
    """Fill in flow and dynamic degree. Both share their frames, and their pairs where VBench keeps every frame."""
    clip.interval = metrics.frame_interval(video.fps) if video.fps else 1
    magnitudes, scores = [], []
    for pair in estimator.pairs(video.frames, 1 if vbench else clip.interval):
        if pair.stride == 1:
            magnitudes.append(metrics.mean_magnitude(pair.flow))
        if pair.stride == clip.interval and not vbench:
            scores.append(metrics.pair_score(pair.padded))
    if magnitudes:
        clip.values[flow_name] = metrics.clip_magnitude(magnitudes)
    if vbench and len(video.frames) > 1:
        verdict = vbench.dynamic(path)
    else:
        verdict = metrics.dynamic(scores, clip.height, clip.width)
    clip.scores, clip.quirk = verdict.scores, metrics.quirk(verdict.kept)
    if video.fps or len(video.frames) == 1:
        clip.values[dynamic_name] = float(verdict.dynamic)
    else:
        clip.problems[dynamic_name] = "the file states no frames a second, which dynamic degree needs"
    if not magnitudes:
        raise ValueError("a clip of one frame has no flow")


def _details(base: str, values: list[float], clips: Sequence[Clip]) -> dict[str, Any]:
    """What the number cannot be read without."""
    if base == "fidelity":
        return {"samples_with_every_factor_right": sum(v == 1 for v in values)}
    read = [clip for clip in clips if clip.frames]
    facts = {
        "fps": sorted({clip.fps or "none" for clip in read}),
        "frames": sorted({clip.frames for clip in read}),
        "size": sorted({f"{clip.width}x{clip.height}" for clip in read}),
    }
    if base == "dynamic_degree":
        quirks = sorted({clip.quirk for clip in read if clip.quirk})
        return {"kept_every": sorted({clip.interval for clip in read}), "quirks": quirks, **facts}
    shares = [v / min(c.height, c.width) for c in clips for k, v in c.values.items() if k.startswith(base)]
    return {"frame_stride": 1, "median": statistics.median(values), "per_short_side": metrics.mean(shares), **facts}
