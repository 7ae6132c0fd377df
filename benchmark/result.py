"""result.json: what metrics there are, the schema, to a file and back."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_origin, get_type_hints

from pdmd.errors import UserError, first_line, suggest
from pdmd.files import parse_json, write_text

from . import metrics, stats

SCHEMA_VERSION = 1
MOST = 1e12  # of any number in a result
NO_PROMPTS = "none"  # in place of a domain: each file is an item of its own


@dataclass(frozen=True)
class Kind:
    """What a metric is, whatever estimates it: its unit, the direction that `means` names, and its interval;
    without one, it is of the set as a whole and no mean over prompts."""

    unit: str
    direction: str
    means: str
    interval: Callable[[Sequence[float]], stats.Interval | None] | None


def bounded(low: float, high: float) -> Callable[[Sequence[float]], stats.Interval | None]:
    """Hall's interval of a mean over prompts, cut where the metric itself ends. Student's and BCa cover too seldom at
    21 prompts (reports/simulation)."""

    def interval(values: Sequence[float]) -> stats.Interval | None:
        found = stats.hall_interval(values)
        return found and replace(found, low=max(low, found.low), high=min(high, found.high))

    return interval


def _wilson(values: Sequence[float]) -> stats.Interval | None:
    return stats.wilson_interval(round(sum(values)), len(values))


#: Every metric by name; an estimator of its own adds a suffix, such as `_dis`.
KINDS = {
    "fidelity": Kind("share of stated factors", "higher", "better", bounded(0, 1)),
    "optical_flow": Kind("pixels a frame", "higher", "more motion", bounded(0, math.inf)),
    "dynamic_degree": Kind("share of videos", "higher", "more motion", _wilson),
    "dinov3_similarity": Kind("mean cosine of pairs", "lower", "more diverse", bounded(-1, 1)),
    "lpips": Kind("mean distance of pairs", "higher", "more diverse", bounded(0, math.inf)),
    "sprites_similarity": Kind("mean cosine of pairs", "lower", "more diverse", bounded(-1, 1)),
    "sprites_distance": Kind("mean distance of pairs", "higher", "more diverse", bounded(0, 2)),
    "factor_diversity": Kind("normalised entropy", "higher", "more diverse", bounded(0, 1)),
    "frechet_sprites": Kind("of the world's variance", "lower", "nearer to the base model", None),
}


def kind(name: str) -> Kind:
    """What a metric is, by its full name. Raises UserError for another."""
    if (plain := name.removesuffix("_dis")) not in KINDS:
        raise UserError(f"no metric {name!r} is known here; {suggest(plain, KINDS)}")
    return KINDS[plain]


def by_prompt(name: str) -> bool:
    """Whether a metric is a mean over prompts, so that two results of it can be set against each other by prompt."""
    return name.removesuffix("_dis") not in KINDS or kind(name).interval is not None


@dataclass(frozen=True)
class Metric:
    """One number. `n` clips (motion) or prompts (diversity) carry it and `missing` should have; `direction` is
    "higher" or "lower", the better one (else the one that is more motion or more diverse); `interval` is None
    where n is too small."""

    name: str
    value: float
    unit: str
    direction: str
    n: int
    missing: int
    interval: stats.Interval | None
    estimator: str
    comparable_with_paper: bool
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Missing:
    """A metric that the suite has and this result has not, why, and the one command that would get it."""

    metric: str
    reason: str
    command: str


@dataclass(frozen=True)
class Result:
    """One model's result on one suite; `generation` is generation.json as written when the media was made,
    `expected` what each metric's n should be."""

    schema_version: int
    suite: str
    model: str
    generation: Mapping[str, Any]
    provenance: Mapping[str, Any]
    expected: int
    metrics: tuple[Metric, ...]
    missing: tuple[Missing, ...]
    problems: Mapping[str, Mapping[str, str]]

    def metric(self, name: str) -> Metric | None:
        """A metric by name, None where the result has none."""
        return next((m for m in self.metrics if m.name == name), None)


def summarise(
    name: str, values: Sequence[float], expected: int, estimator: str, comparable: bool, details: Mapping[str, Any]
) -> Metric:
    """A metric of a suite from its values, one a clip or a prompt, each weighing the same."""
    what = kind(name)
    assert what.interval is not None
    return Metric(
        name=name,
        value=metrics.mean(values),
        unit=what.unit,
        direction=what.direction,
        n=len(values),
        missing=expected - len(values),
        interval=what.interval(values),
        estimator=estimator,
        comparable_with_paper=comparable,
        details=details,
    )


def no_fidelity(domain: str) -> Missing:
    """Why other domains than the embedded world's have none."""
    if domain == NO_PROMPTS:
        return Missing("fidelity", "no prompts are known of these files, so nothing can be compared with one", "none")
    return Missing("fidelity", f"no fidelity measure for {domain!r} prompts in this version", "none yet")


def save(result: Result, path: Path) -> None:
    """Write result.json whole or not at all. Raises ValueError for a number that is not finite."""
    write_text(path, json.dumps(asdict(result), indent=2, allow_nan=False) + "\n")


def load(path: Path) -> Result:
    """Read result.json. Raises UserError for one that is cut short, of a newer schema, or no result."""
    try:
        row = parse_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read the result {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise UserError(f"{path} is not whole JSON ({first_line(error)}); run the benchmark again") from None
    version = row.get("schema_version") if isinstance(row, dict) else None
    if not isinstance(version, int):
        raise UserError(f"{path} is no benchmark result: it has no schema_version")
    if version > SCHEMA_VERSION:
        raise UserError(f"{path} has schema {version}, this pdmd reads up to {SCHEMA_VERSION}; upgrade pdmd")
    try:
        found = [
            _build(Metric, m | {"interval": m["interval"] and _build(stats.Interval, m["interval"])})
            for m in row["metrics"]
        ]
        missing = [_build(Missing, m) for m in row["missing"]]
        whole = all(isinstance(text, str) for problem in row["problems"].values() for text in problem.values())
        if not whole or any(m.direction not in ("higher", "lower") for m in found):
            raise TypeError("its problems are no texts, or a direction is none")
        return _build(Result, row | {"metrics": tuple(found), "missing": tuple(missing)})
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not a whole result of schema {version} ({error}); run the benchmark again"
        ) from None


def _build(cls: type, row: Mapping[str, Any]) -> Any:
    """A dataclass from exactly its fields. Raises TypeError for a missing or unknown one, and for another type."""
    names = {f.name for f in fields(cls)}
    if wrong := names ^ set(row):
        raise TypeError(f"{cls.__name__}: missing or unknown {', '.join(sorted(wrong))}")
    for name, hint in get_type_hints(cls).items():
        if not _fits(row[name], hint):
            raise TypeError(f"{cls.__name__}: {name} is of another type")
    return cls(**row)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from JSON is of a field's type; numbers are none that no metric has."""
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < MOST
    if hint is int:
        return type(value) is int and 0 <= value < MOST
    return isinstance(value, hint if isinstance(hint, UnionType) else get_origin(hint) or hint)
