"""Media and manifest -> one row of numbers a sample, clip by clip.

Reads files only, so that media made by anything else is scored by the same path. Memory holds one clip.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from pdmd.errors import UserError
from pdmd.sprites import grammar, reader

from . import metrics
from .features.flow import FlowEstimator
from .generate import Sample
from .media import read_video


@dataclass
class Item:
    """One scored sample: its file's facts, `values` by metric name, and `problems` by metric name where a
    value could not be had. `scores` are VBench's per-pair scores, pixels."""

    id: str
    seed: int
    prompt: str
    file: str
    frames: int = 0
    height: int = 0
    width: int = 0
    fps: str = ""
    interval: int = 0
    estimator: str = ""
    values: dict[str, float] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    scores: tuple[float, ...] = ()
    quirk: str | None = None


def score(folder: Path, samples: Sequence[Sample], domain: str, estimator: FlowEstimator) -> Iterator[Item]:
    """Score the samples of a folder, one after the other. A sample that cannot be read is an item whose
    problems say so; the run goes on."""
    for sample in samples:
        yield score_sample(folder, sample, domain, estimator)


def score_sample(folder: Path, sample: Sample, domain: str, estimator: FlowEstimator) -> Item:
    """Score one sample: fidelity (embedded world only), optical flow and dynamic degree."""
    flow_name, dynamic_name = "optical_flow" + estimator.suffix, "dynamic_degree" + estimator.suffix
    names = (["fidelity"] if domain == "sprites" else []) + [flow_name, dynamic_name]
    item = Item(sample.id, sample.seed, sample.prompt, sample.file)
    try:
        video = read_video(folder / sample.file)
    except UserError as error:
        item.problems = dict.fromkeys(names, str(error))
        return item
    item.frames, item.height, item.width = video.frames.shape[:3]
    item.fps, item.estimator = str(video.fps or ""), estimator.label(item.height, item.width)
    if domain == "sprites":
        try:
            item.values["fidelity"] = fidelity(sample.prompt, video.frames)
        except ValueError as error:
            item.problems["fidelity"] = str(error)
    try:
        _motion(item, video.frames, video.fps, estimator, flow_name, dynamic_name)
    except ValueError as error:
        item.problems |= {name: str(error) for name in (flow_name, dynamic_name) if name not in item.values}
    return item


def fidelity(prompt: str, video: np.ndarray) -> float:
    """Share of the factors stated by the prompt that the video uint8 (F, 64, 64, 3) shows.

    Raises ValueError for a prompt that states nothing or is not of the embedded world.
    """
    stated = grammar.parse(prompt)
    if not stated:
        raise ValueError("the prompt states no factor")
    return metrics.mean([reader.fidelity(stated, reader.read(video))])


def _motion(
    item: Item, frames: np.ndarray, fps: Fraction | None, estimator: FlowEstimator, flow_name: str, dynamic_name: str
) -> None:
    """Fill in flow and dynamic degree; where VBench keeps every frame, both share one flow."""
    item.interval = metrics.frame_interval(fps) if fps else 1
    magnitudes, scores = [], []
    for pair in estimator.pairs(frames):
        magnitudes.append(metrics.mean_magnitude(pair.flow))
        if item.interval == 1:
            scores.append(metrics.pair_score(pair.padded))
    if item.interval > 1:
        scores = [metrics.pair_score(pair.padded) for pair in estimator.pairs(frames[:: item.interval])]
    verdict = metrics.dynamic(scores, item.height, item.width)
    item.scores, item.quirk = verdict.scores, metrics.quirk(verdict.kept)
    if fps or len(frames) == 1:
        item.values[dynamic_name] = float(verdict.dynamic)
    else:
        item.problems[dynamic_name] = "the file states no frames a second, which dynamic degree needs"
    item.values[flow_name] = metrics.clip_magnitude(magnitudes)
