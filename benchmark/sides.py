"""The two sides of a comparison: result.json with items.csv and prompts.csv beside it; whether two may be
compared, and their values joined by prompt."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pdmd.errors import UserError

from . import result
from .paired import Pair
from .result import Result

#: What must agree, by name and place in generation.json; what a side does not state is left to items.csv. The batch
#: size, which changes samples by roundings alone, may differ.
SETTINGS = {
    "suite version": ("suite", "version"),
    "prompt file's sha256": ("prompts", "sha256"),
    "prompt version": ("prompts", "version"),
    "prompt domain": ("prompts", "domain"),
    "number of prompts": ("prompts", "n"),
    "first frames' sha256": ("first_frames", "sha256"),
    "seeds": ("suite", "seeds"),
    "noise of each prompt": ("suite", "own_noise"),
    "frames a second": ("media", "fps"),
    "frames": ("media", "frames"),
    "video codec": ("media", "video"),
    "image format": ("media", "image"),
}
#: Of an estimator's provenance, what may differ: where it ran and where its weights lay (their sha256 may not).
INCIDENTAL = ("device", "weights", "trunk_weights")
#: What lies beside a result.json and belongs to it, prompts.csv not always.
BESIDE = ("items.csv", "prompts.csv")
SAME_MEAN = 1e-6  # relative: a sum in another order moves a mean by less
SHOWN_PROBLEMS = 3  # of a metric, in one reason


@dataclass(frozen=True)
class Side:
    """A result and the rows of its CSV files, as text; `prompts` is empty where there is no prompts.csv."""

    path: Path
    result: Result
    items: Sequence[Mapping[str, str]]
    prompts: Sequence[Mapping[str, str]]

    @property
    def name(self) -> str:
        return self.result.model

    def rows(self, metric: str) -> Sequence[Mapping[str, str]]:
        """The rows that carry a metric: of prompts where there are such, else of samples."""
        by_prompt = self.prompts and metric in self.prompts[0]
        return self.prompts if by_prompt else self.items

    def first(self, key: str) -> dict[str, str]:
        """A column of items.csv, by prompt id, of each prompt's first sample."""
        return {row["id"]: row[key] for row in reversed(self.items)}


def locate(path: Path) -> Path:
    """The result.json that a path means: itself, or the one in that folder."""
    return path if path.suffix == ".json" else path / "result.json"


def read_side(path: Path) -> Side:
    """Read a result and the CSV files beside it. Raises UserError for what is missing or not whole."""
    file = locate(path)
    return side_of(file, result.load(file))


def side_of(file: Path, found: Result) -> Side:
    """A result that is, or will be, in `file`, with the CSV files beside that. Raises UserError as `read_side`."""
    parts = [found.generation, found.provenance, found.problems]
    if isinstance(found.generation, Mapping):
        parts += [found.generation.get(part, {}) for part in ("suite", "prompts", "first_frames", "media", "model")]
        parts.append(found.provenance.get("git") or {})
    if not all(isinstance(part, Mapping) for part in parts):
        raise UserError(f"{file} is not a whole result; run the benchmark again")
    items = _read_csv(file.with_name("items.csv"), ("id", "seed", "prompt", "file", "frames", "height", "width", "fps"))
    prompts = file.with_name("prompts.csv")
    return Side(file, found, items, _read_csv(prompts, ("id",)) if prompts.is_file() else ())


def _read_csv(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as f:
            reader = csv.DictReader(f, strict=True)
            names, rows = reader.fieldnames or (), list(reader)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; it belongs beside its result.json") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a whole CSV file ({error}); run the benchmark again") from None
    if lacking := [key for key in needed if key not in names]:
        raise UserError(f"{path} has no column {lacking[0]!r}; run the benchmark again")
    if any(None in row or None in row.values() for row in rows):
        raise UserError(f"{path} is cut short or ragged; run the benchmark again")
    return rows


def refuse(old: Side, new: Side, same_noise: bool = True) -> None:
    """Raise UserError, naming both values, where two results do not measure the same thing.

    The models, their steps and their guidance may differ: they are what is compared. Without `same_noise` the seeds may
    differ too.
    """
    for what, a, b in _settings(old, new, same_noise):
        if a != b:
            raise UserError(f"not comparable: {what} differs, {_plain(a)} in {old.path}, {_plain(b)} in {new.path}")


def _settings(old: Side, new: Side, same_noise: bool) -> Iterator[tuple[str, Any, Any]]:
    """Everything that must agree, both values by name; the seeds only with `same_noise`."""
    a, b = old.result, new.result
    yield "suite", a.suite, b.suite
    for what, (part, key) in SETTINGS.items():
        one, other = (side.generation.get(part, {}).get(key) for side in (a, b))
        if one is not None and other is not None and (same_noise or key != "seeds"):
            yield what, one, other
    yield from _estimators(a, b)
    texts, others = old.first("prompt"), new.first("prompt")
    for key in sorted(texts.keys() & others.keys()):
        yield f"the text of prompt {key}", texts[key], others[key]
    seeds, clips = (_seeds(old), _seeds(new)), (_clips(old), _clips(new))
    for key in sorted(seeds[0].keys() & seeds[1].keys()) if same_noise else ():
        if not (seeds[0][key] <= seeds[1][key] or seeds[1][key] <= seeds[0][key]):  # else one is missing, a gate's case
            yield f"the seeds of prompt {key}", sorted(seeds[0][key]), sorted(seeds[1][key])
    if all(clips):
        yield "the samples' frames, size or frames a second", clips[0], clips[1]


def _estimators(a: Result, b: Result) -> Iterator[tuple[str, Any, Any]]:
    """The estimators of the metrics that both results have: their names, versions and settings."""
    for metric in a.metrics:
        if (other := b.metric(metric.name)) is not None:
            for key in ("estimator", "unit", "direction"):
                yield f"{key} of {metric.name}", getattr(metric, key), getattr(other, key)
            mine, theirs = (m.details.get("seeds_a_prompt") for m in (metric, other))
            if None not in (mine, theirs):  # a folder's own record says it, or what most of its prompts have
                yield f"the number of seeds a prompt of {metric.name}", mine, theirs
    for name, record in a.provenance.items():
        theirs = b.provenance.get(name)
        if isinstance(record, Mapping) and isinstance(theirs, Mapping) and "name" in record:
            for key in sorted((record.keys() | theirs.keys()) - set(INCIDENTAL)):
                yield f"{key} of the {name} estimator", record.get(key), theirs.get(key)


def _seeds(side: Side) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in side.items:
        found.setdefault(row["id"], set()).add(row["seed"])
    return found


def _clips(side: Side) -> list[str]:
    """What the samples that could be read are like."""
    read = {(row["frames"], row["width"], row["height"], row["fps"]) for row in side.items if row["frames"] != "0"}
    return sorted(f"{frames} of {w}x{h} at {fps or 'no'} fps" for frames, w, h, fps in read)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


@dataclass(frozen=True)
class Values:
    """A side's values of a metric: the mean over each sound prompt's samples, and by prompt id what is wrong."""

    means: Mapping[str, float]
    problems: Mapping[str, str]


def values(side: Side, metric: str) -> Values:
    """The values of a metric that the side has. Raises UserError where the file is not its result's own."""
    found: dict[str, list[float]] = {}
    problems: dict[str, str] = {}
    rows = side.rows(metric)
    times = Counter((row["id"], row.get("seed")) for row in rows)
    for row in rows:
        key, seed, text = row["id"], row.get("seed"), row.get(metric, "")
        sample = key if seed is None else f"{key}-{seed}"
        why = side.result.problems.get(sample, {}).get(metric)
        if times[key, seed] > 1:
            problems[key] = f"{sample} comes {times[key, seed]} times"
        elif not text:
            problems[key] = f"{sample} is missing" + (f" ({why})" if why else "")
        elif not math.isfinite(value := _number(text)):
            problems[key] = f"{sample} is {text!r}, not a number"
        else:
            found.setdefault(key, []).append(value)
    lacking = side.result.expected - sum(times.values())
    if lacking > 0:
        problems[""] = f"{lacking} of {side.result.expected} are missing"
    if not problems:
        _own(side, metric, [value for group in found.values() for value in group])
    return Values({key: math.fsum(group) / len(group) for key, group in found.items() if key not in problems}, problems)


def _number(text: str) -> float:
    """What a cell says; not a number for one beyond those of any metric."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if abs(value) < result.MOST else math.nan


def _own(side: Side, metric: str, numbers: Sequence[float]) -> None:
    """Raise UserError where result.json states another mean than the rows beside it have."""
    stated = side.result.metric(metric)
    mean = math.fsum(numbers) / len(numbers) if numbers else math.nan
    if stated and not math.isclose(stated.value, mean, rel_tol=SAME_MEAN, abs_tol=SAME_MEAN):
        raise UserError(f"{side.path} states {metric} {stated.value:.6g}, the rows beside it {mean:.6g}; not one run's")


@dataclass(frozen=True)
class Joined:
    """A metric of both sides over the prompts that are sound in both, and what is wrong with the others."""

    ids: tuple[str, ...]
    pair: Pair
    problem: str | None


def join(old: Side, new: Side, metric: str) -> Joined:
    """Join a metric that both sides have by prompt id, in the order of the old one's rows."""
    a, b = values(old, metric), values(new, metric)
    ids = tuple(key for key in a.means if key in b.means)
    wrong = [f"{side}: {text}" for side, v in (("old", a), ("new", b)) for text in v.problems.values()]
    for side, one, other in (("old", a, b), ("new", b, a)):
        known = {*one.means, *one.problems}
        wrong += [f"{side}: no prompt {key}" for key in other.means if key not in known]
    stated = old.result.metric(metric)
    assert stated is not None
    pair = Pair(metric, stated.direction, *(np.array([v.means[key] for key in ids]) for v in (a, b)))
    if wrong:
        more = f" and {len(wrong) - SHOWN_PROBLEMS} more" if len(wrong) > SHOWN_PROBLEMS else ""
        return Joined(ids, pair, "; ".join(wrong[:SHOWN_PROBLEMS]) + more)
    return Joined(ids, pair, "one prompt has no spread" if len(ids) < 2 else None)
