"""Prompts x seeds -> media/ and manifest.jsonl, resumable at any sample.

The folder of one model and suite:

    media/ID-SEED.mp4   one file a sample, written under a temporary name, then renamed
    manifest-K.jsonl    while process K makes its share: one line a sample, appended once its file is whole
    manifest.jsonl      all samples; gathered before the first is made and after the last
    others.jsonl        samples that the folder holds besides: a run of fewer prompts does not lose the rest
    generation.json     what made them: model, settings, prompt file

Scoring reads these files and nothing else. A network's float32 sums differ by roundings with the size of their batch,
and may with what shares it. So every batch has one size, the last one filled up, and is a fixed slice of the suite's
samples, whoever makes it and whatever is there already: a sample that is made again, or by another process, is the same
to the last bit. The size is part of what a sample is a function of: samples of another are made again, never mixed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pdmd.errors import UserError
from pdmd.files import PART, parse_json, sha256, without_path, write_text
from pdmd.media import CODEC, Codec, as_fraction, codec_record, inside, read_video, write_png, write_video

from .shards import ALONE, Shard
from .suites import Prompt, PromptSet, Suite, first_frames_record, prompts_record

BATCH_SIZE = 8
#: How a model's networks ran where its identity does not say.
COMPUTED = {"device": "cpu", "dtype": "float32"}
PARTS, OTHERS = "manifest-[0-9]*.jsonl", "others.jsonl"


class Model(Protocol):
    """What the benchmark needs of a model.

    `identity` is JSON-able provenance: kind, path, sha256, steps, guidance; device and dtype where they are not
    COMPUTED. A sample's noise depends on its seed alone, so that another batch size changes roundings and nothing else.
    Where it goes on from `first_frames`, its prompts are `pdmd.teachers.Pictured`.
    """

    @property
    def name(self) -> str: ...
    @property
    def identity(self) -> dict[str, Any]: ...
    @property
    def domain(self) -> str: ...
    @property
    def first_frames(self) -> bool: ...
    @property
    def fps(self) -> float: ...
    def generate(self, prompts: Sequence[str], seeds: Sequence[int], frames: int | None) -> np.ndarray:
        """uint8 (n, frames, H, W, 3), RGB; `frames` None is the model's own clip length."""


@dataclass(frozen=True)
class Sample:
    """One line of a manifest. `file` is relative to the manifest; `identity` is the hash of all that
    determines the sample; `sha256` is that of the file. All but id, prompt, seed and file may be absent."""

    id: str
    prompt: str
    seed: int
    file: str
    sha256: str | None = None
    identity: str | None = None


def sample_identity(
    model: Model, prompt: Prompt, seed: int, frames: int | None, batch_size: int, codec: Codec = CODEC
) -> str:
    """Hash of everything a sample is a function of: model, prompt, first frame, seed, settings."""
    asked = [prompt.id, prompt.text, seed, frames, batch_size, codec_record(codec)]
    what = [without_path(model.identity), float(model.fps), *asked]
    if prompt.first_frame:
        what.append(prompt.first_frame.sha256)
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def generate(
    suite: Suite,
    prompts: PromptSet,
    model: Model,
    out: Path,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    codec: Codec = CODEC,
    shard: Shard = ALONE,
) -> list[Sample]:
    """Make every sample of the suite that `out` does not hold already, whole and of this very identity.

    Of several processes each makes every `shard.count`-th batch. `progress` is called with how many samples are
    there, and how many are to be. Returns the manifest, in the order of the prompts; process 0's is complete.
    Raises UserError where the disk refuses.
    """
    wanted = [
        (p, seed, sample_identity(model, p, seed, suite.frames, batch_size, codec))
        for p in prompts.prompts
        for seed in suite.seeds_of(p)
    ]
    keys, manifest = [key for _, _, key in wanted], out / "manifest.jsonl"
    if shard.rank == 0:
        write_text(
            out / "generation.json", json.dumps(_record(suite, prompts, model, batch_size, codec), indent=2) + "\n"
        )
        for half_written in (out / "media").glob(PART):
            half_written.unlink()
        _gather(out, keys, lambda sample: _is_whole(out, sample))
    shard.wait()
    kept = {str(sample.identity): sample for sample in read_manifest(manifest)}
    batches = [wanted[start : start + batch_size] for start in range(0, len(wanted), batch_size)]
    mine = [batch for batch in batches if any(key not in kept for _, _, key in batch)][shard.rank :: shard.count]
    total = len(kept) + sum(key not in kept for batch in mine for _, _, key in batch)
    progress(len(kept), total)
    for batch in mine:
        rows = batch + batch[-1:] * (batch_size - len(batch))  # the last batch too has the size of all
        videos = model.generate([_asked(p) for p, _, _ in rows], [seed for _, seed, _ in rows], suite.frames)
        if videos.ndim != 5 or videos.dtype != np.uint8 or len(videos) != batch_size:
            raise ValueError(f"{model.name} returned {videos.dtype} {videos.shape} for {batch_size} prompts")
        for (prompt, seed, key), video in zip(batch, videos, strict=False):
            if key not in kept:
                kept[key] = _store(out, prompt, seed, key, video, model, codec)
                _append(out / f"manifest-{shard.rank}.jsonl", _line(kept[key]))
        progress(len(kept), total)
    shard.wait()
    if shard.rank == 0:
        kept = _gather(out, keys)
        if lost := [f"{p.id}-{seed}" for p, seed, key in wanted if key not in kept]:
            raise UserError(f"{out} lacks sample {lost[0]}: the processes do not share one folder")
    return [kept[key] for key in keys if key in kept]


def _gather(out: Path, keys: Sequence[str], sound: Callable[[Sample], bool] = lambda sample: True) -> dict[str, Sample]:
    """Join the manifest and its parts into manifest.jsonl: the sound samples of these identities, by identity and in
    this order; others, as far as no sample of these has their file, wait in others.jsonl until they are wanted. A
    killed run may have left any of the files, and a last line unfinished."""
    manifest, others, parts = out / "manifest.jsonl", out / OTHERS, sorted(out.glob(PARTS))
    files = [path for path in (others, manifest, *parts) if path.is_file()]
    rows = (sample for path in files for sample in read_manifest(path, torn_tail=True))
    found = {sample.identity: sample for sample in rows if sample.identity}
    kept = {key: found[key] for key in keys if key in found and sound(found[key])}
    written, wanted = {sample.file for sample in kept.values()}, set(keys)
    rest = {sample.file: sample for key, sample in found.items() if key not in wanted and sample.file not in written}
    if rest or others.is_file():
        write_text(others, "".join(map(_line, rest.values())))
    write_text(manifest, "".join(map(_line, kept.values())))
    for part in parts:
        part.unlink()
    return kept


def read_manifest(path: Path, torn_tail: bool = False) -> list[Sample]:
    """The samples of a manifest. Raises UserError naming the line for anything else; with `torn_tail`, a last
    line that a killed run left unfinished is passed over."""
    try:
        lines = list(io.StringIO(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the manifest {path}: {error}") from None
    samples: list[Sample] = []
    for i, line in enumerate(lines, start=1):
        if torn_tail and i == len(lines) and not line.endswith("\n"):
            break
        try:
            row = parse_json(line)
            checked = "check" in row or "identity" in row
            row = {name: row.get(name) for name in Sample.__dataclass_fields__}
            sample = Sample(**row | {"prompt": row["prompt"] or ""})
            kinds = ((sample.id, str), (sample.prompt, str), (sample.seed, int), (sample.file, str))
            right = all(isinstance(value, kind) for value, kind in kinds)
        except (ValueError, AttributeError, TypeError):
            right = False
        if not right:
            raise UserError(f"{path}, line {i}: not a manifest line; it needs id, prompt, seed and file")
        if checked and line != _line(sample):
            raise UserError(f"{path}, line {i}: damaged, its check does not match; delete the line and make it again")
        samples.append(sample)
    return samples


def read_record(folder: Path) -> dict[str, Any] | None:
    """The folder's generation.json, None where there is none. Raises UserError for a damaged one."""
    path = folder / "generation.json"
    if not path.is_file():
        return None
    try:
        content = parse_json(path.read_bytes())
        parts = [content.get(name, {}) for name in ("suite", "prompts", "media")]
        assert all(isinstance(part, dict) for part in (content["model"], *parts))
        assert isinstance(parts[0].get("seeds", []), list)
        assert isinstance(parts[1].get("n", 0), int)
        assert all(isinstance(row["image"], str) for row in content.get("first_frames", {}).get("of", {}).values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError):
        raise UserError(f"{path} is damaged; delete it, or generate the samples again") from None
    return dict(content)


def _asked(prompt: Prompt) -> str:
    """The prompt as its model takes it: with its first frame where there is one."""
    if prompt.first_frame is None:
        return prompt.text
    from pdmd.teachers import Pictured  # torch is slow to import

    return Pictured(prompt.text, read_video(prompt.first_frame.path).frames[0])


def _store(out: Path, prompt: Prompt, seed: int, key: str, video: np.ndarray, model: Model, codec: Codec) -> Sample:
    """Write one sample's file and return its manifest line."""
    file = f"media/{prompt.id}-{seed}{'.png' if len(video) == 1 else codec.suffix}"
    if len(video) == 1:
        write_png(out / file, video[0])
    else:
        write_video(out / file, video, model.fps, codec)
    return Sample(prompt.id, prompt.text, seed, file, sha256(out / file), key)


def _is_whole(out: Path, sample: Sample) -> bool:
    try:
        path = inside(out, sample.file)
    except UserError:
        return False
    return path.is_file() and sha256(path) == sample.sha256


def _line(sample: Sample) -> str:
    """A sample's line in the manifest; `check` is the checksum of the rest."""
    row = asdict(sample)
    check = hashlib.sha256(json.dumps(row).encode()).hexdigest()[:16]
    return json.dumps(row | {"check": check}) + "\n"


def _append(path: Path, line: str) -> None:
    try:
        with path.open("a", encoding="utf-8") as f:
            f.write(line)
            f.flush()
            os.fsync(f.fileno())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def _record(suite: Suite, prompts: PromptSet, model: Model, batch_size: int, codec: Codec) -> dict[str, Any]:
    """What generation.json says."""
    return {
        "suite": {
            "name": suite.name,
            "version": suite.version,
            "seeds": list(suite.seeds),
            "own_noise": suite.own_noise,
        },
        "model": {"name": model.name, "domain": model.domain, **model.identity},
        "computed": {key: model.identity.get(key, default) for key, default in COMPUTED.items()},
        "prompts": prompts_record(prompts),
        "media": {
            "fps": str(as_fraction(model.fps)),
            "frames": suite.frames,
            "video": codec_record(codec),
            "image": "PNG",
            "batch_size": batch_size,
        },
    } | first_frames_record(prompts)
