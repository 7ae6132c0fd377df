"""The diversity suite's numbers: how far the images of one prompt's seeds differ, fidelity beside them.

Of clips, the middle frames are the images; what the reader sees, and what is set against the base model's, is the clip.
The unit is the prompt, and all of its samples are needed: with one missing, the prompt is missing, and named.
Memory holds the images of one prompt, and of the next, which are read meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pdmd.errors import UserError
from pdmd.sprites import grammar, reader
from pdmd.sprites.world import FACTORS, IMAGE_FACTORS

from . import frechet, metrics, pictures
from .features import weights
from .features.sprites import SpritesEncoder
from .generate import Sample
from .pairs import NETWORKS, PairMetric, pair_metrics, sprites_metrics
from .result import Metric, Missing, no_fidelity, summarise
from .score import Item, Media, PromptScore, Scored, Track, fidelity, overlapped

#: How many values each factor of an image has.
VALUES = {name: len(FACTORS[name]) for name in IMAGE_FACTORS}
#: Of a clip also its motion. Its speed hangs on that: what stands still has none.
CLIP_VALUES = VALUES | {"motion": len(FACTORS["motion"])}
#: Of these, the first that a result has sorts the prompts of its picture.
SORTED_BY = ("dinov3_similarity", "lpips", "factor_diversity")


@dataclass
class Image(Item):
    """A scored image, and what the reader saw of each factor (None: not legible; embedded world only)."""

    factors: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def extra(self) -> Mapping[str, object]:
        return {name: value or "" for name, value in self.factors.items()}


@dataclass
class PromptImages(PromptScore):
    """A prompt's score, with the normalised entropy of each factor that it leaves open."""

    items: Sequence[Image]
    entropies: Mapping[str, float] = field(default_factory=dict)


class Diversity:
    """Scores the images of each prompt by pair metrics and, in the embedded world, by what they show and, with its
    `encoder`, against the base model's."""

    def __init__(self, pairs: Sequence[PairMetric], encoder: SpritesEncoder | None = None) -> None:
        self.pairs, self.encoder = pairs, encoder

    def provenance(self) -> dict[str, Any]:
        own = {"sprites_encoder": self.encoder.provenance()} if self.encoder else {}
        return {pair.name: pair.network.provenance() for pair in self.pairs if pair.domain is None} | own

    def pairs_of(self, media: Media) -> list[PairMetric]:
        """The pair metrics of the media's domain."""
        return [pair for pair in self.pairs if pair.domain in (None, media.domain)]

    def score(self, media: Media, track: Track) -> Scored:
        groups: dict[str, list[Sample]] = {}
        for sample in media.samples:
            groups.setdefault(sample.id, []).append(sample)
        seeds = media.seeds or max(map(len, groups.values()), default=0)
        read = partial(read_images, media, self.encoder)
        one = overlapped(groups.values(), read, partial(self.score_prompt, media, seeds))
        prompts: list[PromptImages] = list(track(one, len(groups), self.names(media)))
        expected = media.prompts or len(groups)
        found, missing = self._summary(prompts, expected, seeds, media)
        return Scored([item for p in prompts for item in p.items], prompts, expected, found, missing)

    def names(self, media: Media) -> list[str]:
        """The metrics of a prompt."""
        own = ["fidelity", "factor_diversity"] if media.domain == "sprites" else []
        return own + [pair.name for pair in self.pairs_of(media)]

    def score_prompt(self, media: Media, seeds: int, read: Sequence[tuple[Image, np.ndarray | None]]) -> PromptImages:
        """Score one prompt of so many seeds, as read; with a sample missing, no metric has a value."""
        items, images = [item for item, _ in read], [image for _, image in read if image is not None]
        prompt = PromptImages(items[0].id, items[0].prompt, items)
        if problem := incomplete(items, seeds):
            prompt.problems = dict.fromkeys(self.names(media), problem)
            return prompt
        if media.domain == "sprites":
            _fill(prompt, "fidelity", lambda: prompt_fidelity(items))
            _fill(prompt, "factor_diversity", lambda: _factor_diversity(prompt))
        for pair in self.pairs_of(media):
            _fill(prompt, pair.name, partial(pair.of, np.stack(images)))
        return prompt

    def draw(self, media: Media, scored: Scored) -> dict[str, str]:
        by = next((name for name in SORTED_BY if any(name in p.values for p in scored.prompts)), None)
        drawn = pictures.draw_seeds(media.out / "seeds.png", media.folder, scored.prompts, by)
        order = f", from least to most diverse by {by.replace('_', ' ')}" if by else ""
        return {"seeds.png": f"A row a prompt, with the images of all its seeds{order}"} if drawn else {}

    def _summary(
        self, prompts: Sequence[PromptImages], expected: int, seeds: int, media: Media
    ) -> tuple[list[Metric], list[Missing]]:
        """The suite's metrics over all prompts, and those that are missing."""
        found: list[Metric] = []
        missing: list[Missing] = []
        size = sorted({f"{item.width}x{item.height}" for p in prompts for item in p.items if item.frames})
        height, width = next(((i.height, i.width) for p in prompts for i in p.items if i.frames), (0, 0))
        facts = {"seeds_a_prompt": seeds, "size": size}

        def add(name: str, estimator: str, comparable: bool, details: Mapping[str, Any]) -> None:
            if values := [p.values[name] for p in prompts if name in p.values]:
                found.append(summarise(name, values, expected, estimator, comparable, details))
                return
            reason = next((p.problems[name] for p in prompts if name in p.problems), "no sample was made")
            missing.append(Missing(name, f"no prompt could be scored ({reason})", media.command))

        if media.domain == "sprites":
            right = sum(item.values.get("fidelity") == 1 for p in prompts for item in p.items)
            add("fidelity", reader.NAME, False, {"samples_with_every_factor_right": right, **facts})
        else:
            missing.append(no_fidelity(media.domain))
        by_name = {pair.name: pair.network for pair in self.pairs_of(media)}
        for name in dict.fromkeys([*NETWORKS, *by_name]):
            if name in by_name:
                network = by_name[name]
                comparable = media.domain == "open" and network.comparable()
                add(name, network.label(height, width), comparable, facts)
            else:
                command = f"{weights.fetch_command(NETWORKS[name])} && {media.command}"
                missing.append(Missing(name, weights.absence(NETWORKS[name]), command))
        if media.domain == "sprites":
            add("factor_diversity", reader.NAME, False, _entropy_details(prompts, seeds))
        frechet.add(found, missing, [i for p in prompts for i in p.items], media, expected, self.encoder)
        return found, missing


def make(given: Mapping[str, Path], device: str = "cpu") -> Diversity:
    """The diversity scorer with every network whose weights are given or cached. Raises UserError for bad ones."""
    encoder = SpritesEncoder(device=device)
    return Diversity([*pair_metrics(given, device), *sprites_metrics(encoder)], encoder)


def read_images(
    media: Media, encoder: SpritesEncoder | None, samples: Sequence[Sample]
) -> list[tuple[Image, np.ndarray | None]]:
    """One prompt's samples, by `read_image`."""
    return [read_image(media, sample, encoder) for sample in samples]


def read_image(media: Media, sample: Sample, encoder: SpritesEncoder | None = None) -> tuple[Image, np.ndarray | None]:
    """One sample and the pixels of its middle frame, uint8 (H, W, 3), or None and what stands in their way."""
    item = Image(sample.id, sample.seed, sample.prompt, sample.file)
    try:
        frames = media.read(sample).frames
        item.frames, item.height, item.width = frames.shape[:3]
        if item.frames != 1 and not media.clips:
            raise UserError(f"{sample.file} has {item.frames} frames; diversity is between single images")
    except UserError as error:
        item.problems["image"] = str(error)
        return item, None
    if media.domain == "sprites":
        try:
            seen = reader.read(frames)
            item.factors = {name: seen.factors[name] for name in (CLIP_VALUES if media.clips else VALUES)}
            item.values["fidelity"] = fidelity(sample.prompt, seen)
        except ValueError as error:
            item.problems["fidelity"] = str(error)
        frechet.embed(item, frames, encoder)
    return item, frames[len(frames) // 2]


def incomplete(items: Sequence[Item], seeds: int) -> str | None:
    """Why a prompt's samples cannot be compared, if they cannot."""
    for item in items:
        if "image" in item.problems:
            return f"sample {item.id}-{item.seed}: {item.problems['image']}"
    seed, times = Counter(item.seed for item in items).most_common(1)[0]
    if times > 1:
        return f"seed {seed} comes {times} times; a sample compared with itself is no pair"
    if len(items) < seeds:
        return f"{seeds - len(items)} of {seeds} samples are missing"
    if len(items) > seeds:
        return f"it has {len(items)} samples in place of {seeds}"
    if len({(item.height, item.width) for item in items}) > 1:
        return "its images are of different sizes"
    return None


def prompt_fidelity(items: Sequence[Item]) -> float:
    """Mean fidelity of the samples. Raises ValueError, with the reason, where one has none."""
    for item in items:
        if "fidelity" not in item.values:
            raise ValueError(f"sample {item.id}-{item.seed}: {item.problems['fidelity']}")
    return metrics.mean(item.values["fidelity"] for item in items)


def open_entropies(prompt: str, items: Sequence[Image]) -> dict[str, float]:
    """The entropy of each factor that the prompt leaves open. Raises ValueError for what cannot be read."""
    for item in items:
        if not item.factors:
            raise ValueError(f"sample {item.id}-{item.seed}: {item.problems['fidelity']}")
    values = {name: CLIP_VALUES[name] for name in items[0].factors}
    return metrics.factor_entropies([item.factors for item in items], grammar.parse(prompt), values)


def _factor_diversity(prompt: PromptImages) -> float:
    prompt.entropies = open_entropies(prompt.prompt, prompt.items)
    return metrics.mean(prompt.entropies.values())


def _fill(prompt: PromptScore, name: str, value: Callable[[], float]) -> None:
    """Set a metric of a prompt, or the reason why it has none."""
    try:
        prompt.values[name] = value()
    except ValueError as error:
        prompt.problems[name] = str(error)


def _entropy_details(prompts: Sequence[PromptImages], seeds: int) -> dict[str, Any]:
    """What factor diversity cannot be read without: what an even draw scores, each factor on its own, and
    how many readings were not legible."""
    scored = [p for p in prompts if p.entropies]
    if not scored:
        return {}
    even = {name: metrics.expected_entropy(seeds, n) for name, n in CLIP_VALUES.items()}
    by_factor = {
        name: metrics.mean(p.entropies[name] for p in scored if name in p.entropies)
        for name in CLIP_VALUES
        if any(name in p.entropies for p in scored)
    }
    readings = [item.factors[name] for p in scored for item in p.items for name in p.entropies]
    return {
        "seeds_a_prompt": seeds,
        "an_even_draw_scores": metrics.mean(metrics.mean(even[name] for name in p.entropies) for p in scored),
        "by_factor": by_factor,
        "illegible_readings": sum(r is None for r in readings) / len(readings),
    }
