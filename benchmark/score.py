"""What the suites' scorers share: samples and prompts with their numbers, prompt fidelity, the CSV files.

Scoring reads files only, so that media made by anything else is scored by the same path.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from pdmd.errors import UserError
from pdmd.files import sha256
from pdmd.media import Video, inside, read_video
from pdmd.sprites import grammar, reader

from . import metrics
from .generate import Sample
from .result import Metric, Missing

T = TypeVar("T")
R = TypeVar("R")
M = TypeVar("M")
#: Shows progress over an iterable of so many steps, in which the metrics named come about.
Track = Callable[[Iterable[Any], int, Sequence[str]], Iterable[Any]]


@dataclass
class Item:
    """One scored sample: its file's facts, `values` by metric name, and `problems` by metric name where a
    value could not be had."""

    id: str
    seed: int
    prompt: str
    file: str
    frames: int = 0
    height: int = 0
    width: int = 0
    fps: str = ""
    values: dict[str, float] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    embedding: np.ndarray | None = field(default=None, repr=False)  # of the embedded world's encoder

    @property
    def extra(self) -> Mapping[str, object]:
        """Further columns of items.csv."""
        return {}


@dataclass
class PromptScore:
    """One prompt's numbers over all its samples, and its problems, by metric name."""

    id: str
    prompt: str
    items: Sequence[Item]
    values: dict[str, float] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Media:
    """What a folder holds: its samples in the manifest's order, whose they are, the domain of their prompts,
    and how many prompts and seeds were to be made (0 where nothing says). `command` is the one that measures them
    again; `base` the result's folder of the base model in the same run: of the base itself, its own.

    `out` is where the result goes, the media's own folder or another. `refused` says of a sample, by id and seed,
    why its file is not to be read; `shown`, by prompt id, what its first frame shows. `clips`: where the suite is of
    images, these samples are clips all the same.
    """

    folder: Path
    out: Path
    suite: str
    model: str
    domain: str
    samples: Sequence[Sample]
    prompts: int = 0
    seeds: int = 0
    command: str = ""
    base: Path | None = None
    refused: Mapping[tuple[str, int], str] = field(default_factory=dict)
    shown: Mapping[str, str] = field(default_factory=dict)
    clips: bool = False

    def file_of(self, sample: Sample) -> Path:
        """A sample's file. Raises UserError where it is refused, lies outside the folder, or was changed."""
        if reason := self.refused.get((sample.id, sample.seed)):
            raise UserError(reason)
        path = inside(self.folder, sample.file)
        if sample.sha256 is not None and path.is_file() and sha256(path) != sample.sha256:
            raise UserError(f"{path} is damaged: its sha256 is not that of the manifest")
        return path

    def read(self, sample: Sample) -> Video:
        """A sample's frames. Raises UserError where they cannot be had."""
        return read_video(self.file_of(sample))


@dataclass(frozen=True)
class Scored:
    """What a scorer makes of a folder. `expected` is what each metric's n should be; `prompts` is empty where
    a prompt has one sample, whose item says it all."""

    items: Sequence[Item]
    prompts: Sequence[PromptScore]
    expected: int
    metrics: Sequence[Metric]
    missing: Sequence[Missing]

    @property
    def problems(self) -> dict[str, dict[str, str]]:
        """What went wrong, by sample (ID-SEED) or prompt (ID), then by metric."""
        samples = {f"{item.id}-{item.seed}": item.problems for item in self.items}
        return {key: p for key, p in (samples | {p.id: p.problems for p in self.prompts}).items() if p}


class Scorer(Protocol):
    """The measuring half of a suite."""

    def provenance(self) -> dict[str, Any]:
        """The estimators behind the metrics, JSON-able."""

    def score(self, media: Media, track: Track) -> Scored:
        """Every sample's numbers and the suite's. What cannot be read is a problem; the run goes on."""

    def draw(self, media: Media, scored: Scored) -> dict[str, str]:
        """Write the report's pictures into `media.out`; returns their captions by file name."""


def overlapped(things: Iterable[T], read: Callable[[T], R], measure: Callable[[R], M]) -> Iterator[M]:
    """measure(read(x)) of each thing, in order. The next one is read by a thread while this one is measured, so that
    files are decoded while networks run; no more than these two are held. What `read` raises comes in its turn."""
    todo = iter(things)
    with ThreadPoolExecutor(max_workers=1) as thread:
        coming = [thread.submit(read, x) for x in islice(todo, 1)]
        while coming:
            ready = coming.pop().result()
            coming = [thread.submit(read, x) for x in islice(todo, 1)]
            yield measure(ready)


def fidelity(prompt: str, reading: reader.Reading, first_frame: str = "") -> float:
    """Share of the factors stated by the prompt, and by the description of its first frame, that a reading of the
    embedded world shows.

    Raises ValueError for a prompt that states nothing or is not of the embedded world.
    """
    stated = grammar.parse(first_frame) | grammar.parse(prompt)
    if not stated:
        raise ValueError("the prompt states no factor")
    return metrics.mean([reader.fidelity(stated, reading)])


def items_csv(items: Sequence[Item]) -> str:
    """One row a sample, as CSV text."""
    names = sorted({name for item in items for name in (*item.values, *item.problems)})
    extra = list(dict.fromkeys(name for item in items for name in item.extra))
    head = ["id", "seed", "prompt", "file", "frames", "height", "width", "fps"]
    rows = [
        [
            *(getattr(item, key) for key in head),
            *(item.extra.get(name, "") for name in extra),
            *(item.values.get(name, "") for name in names),
            "; ".join(f"{name}: {reason}" for name, reason in item.problems.items()),
        ]
        for item in items
    ]
    return _csv([[*head, *extra, *names, "problems"], *rows])


def prompts_csv(prompts: Sequence[PromptScore], names: Sequence[str]) -> str:
    """One row a prompt, as CSV text: its id, then a column for each of the metrics, empty where missing."""
    return _csv([["id", *names], *([p.id, *(p.values.get(name, "") for name in names)] for p in prompts)])


def _csv(rows: Iterable[Sequence[object]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
