"""result.json and items.csv: the schema, from items to a result, and back from a file."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pdmd.errors import UserError

from . import metrics, stats
from .features.flow import FlowEstimator
from .files import write_text
from .score import Item

SCHEMA_VERSION = 1
UNITS = {"fidelity": "share of stated factors", "optical_flow": "pixels a frame", "dynamic_degree": "share of videos"}
RAFT_COMMAND = (
    "curl -LO https://download.pytorch.org/models/raft_large_C_T_V1-22a6c225.pth && "
    "pdmd bench --suite {suite} --weights raft=raft_large_C_T_V1-22a6c225.pth"
)


@dataclass(frozen=True)
class Metric:
    """One number. `n` samples carry it and `missing` should have; `direction` is "higher" or "lower", the
    better one (for motion: the one that is more motion); `interval` is None where n is too small."""

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
    """One model's result on one suite; `generation` is generation.json as written when the media was made."""

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
    items: Sequence[Item], expected: int, suite: str, domain: str, estimator: FlowEstimator
) -> tuple[list[Metric], list[Missing]]:
    """The suite's metrics over all items, and those that are missing. Each prompt weighs the same (one
    sample a prompt)."""
    found, missing = [], []
    labels = "; ".join(sorted({item.estimator for item in items if item.estimator})) or estimator.suffix
    for base, unit in UNITS.items():
        name = base if base == "fidelity" else base + estimator.suffix
        if name == "fidelity" and domain != "sprites":
            missing.append(Missing(name, f"no fidelity measure for {domain!r} prompts in this version", "none yet"))
            continue
        values = [item.values[name] for item in items if name in item.values]
        if name != base:
            missing.append(Missing(base, "no RAFT weights were given", RAFT_COMMAND.format(suite=suite)))
        if not values:
            reason = next((i.problems[name] for i in items if name in i.problems), "no sample was made")
            missing.append(Missing(name, f"no sample could be scored ({reason})", f"pdmd bench --suite {suite}"))
            continue
        found.append(
            Metric(
                name=name,
                value=metrics.mean(values),
                unit=unit,
                direction="higher",
                n=len(values),
                missing=expected - len(values),
                interval=_interval(base, values),
                estimator="pdmd.sprites.reader" if base == "fidelity" else labels,
                comparable_with_paper=base != "fidelity" and domain == "open" and estimator.comparable(),
                details=_details(base, values, items),
            )
        )
    return found, missing


def _interval(base: str, values: list[float]) -> stats.Interval | None:
    if base == "dynamic_degree":
        return stats.wilson_interval(round(sum(values)), len(values))
    if base == "optical_flow":
        return stats.bca_interval(values)
    interval = stats.t_interval(values)
    return interval and replace(interval, low=max(0.0, interval.low), high=min(1.0, interval.high))  # a share


def _details(base: str, values: list[float], items: Sequence[Item]) -> dict[str, Any]:
    """What the number cannot be read without."""
    if base == "fidelity":
        return {"samples_with_every_factor_right": sum(v == 1 for v in values)}
    read = [item for item in items if item.frames]
    facts = {
        "fps": sorted({item.fps for item in read}),
        "frames": sorted({item.frames for item in read}),
        "size": sorted({f"{item.width}x{item.height}" for item in read}),
    }
    if base == "dynamic_degree":
        quirks = sorted({item.quirk for item in read if item.quirk})
        return {"kept_every": sorted({item.interval for item in read}), "quirks": quirks, **facts}
    shares = [v / min(i.height, i.width) for i in items for k, v in i.values.items() if k.startswith(base)]
    return {"frame_stride": 1, "median": statistics.median(values), "per_short_side": metrics.mean(shares), **facts}


def items_csv(items: Sequence[Item]) -> str:
    """One row a sample, as CSV text; per-pair scores are joined by spaces."""
    names = sorted({name for item in items for name in (*item.values, *item.problems)})
    head = ["id", "seed", "prompt", "file", "frames", "height", "width", "fps", "interval"]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*head, *names, "pair_scores", "problems"])
    for item in items:
        numbers = [item.values.get(name, "") for name in names]
        pairs = " ".join(f"{s:.6g}" for s in item.scores)
        problems = "; ".join(f"{name}: {reason}" for name, reason in item.problems.items())
        writer.writerow([*(getattr(item, key) for key in head), *numbers, pairs, problems])
    return buffer.getvalue()


def save(result: Result, path: Path) -> None:
    """Write result.json whole or not at all. Raises ValueError for a number that is not finite."""
    write_text(path, json.dumps(asdict(result), indent=2, allow_nan=False) + "\n")


def load(path: Path) -> Result:
    """Read result.json. Raises UserError for one that is cut short, of a newer schema, or no result."""
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the result {path}: {getattr(error, 'strerror', None) or error}") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not whole JSON (line {error.lineno}: {error.msg}); run the benchmark again"
        ) from None
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
        return _build(Result, row | {"metrics": tuple(found), "missing": tuple(missing)})
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not a whole result of schema {version} ({error}); run the benchmark again"
        ) from None


def _build(cls: type, row: Mapping[str, Any]) -> Any:
    """A dataclass from exactly its fields. Raises TypeError for a missing or unknown one."""
    names = {f.name for f in fields(cls)}
    if wrong := names ^ set(row):
        raise TypeError(f"{cls.__name__}: missing or unknown {', '.join(sorted(wrong))}")
    return cls(**row)
