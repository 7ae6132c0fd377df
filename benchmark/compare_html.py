"""A comparison as a page: verdicts, gates, and the prompts that moved most, old and new side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import compare_report, markup
from .compare import Change, Comparison
from .gates import FAILED
from .page import Group, gallery
from .paired import BETTER, WORSE
from .sides import read_side, values

MOVED = 3  # prompts at either end, of each metric


@dataclass(frozen=True)
class Forest:
    """A change on an axis with zero in the middle, in percent of its width: the interval, the estimate, and the
    gate's margin on either side (None without a gate)."""

    low: float
    high: float
    at: float
    margin: float | None


def page(comparison: Comparison, folder: Path) -> str:
    """The page, to lie in `folder`. Raises UserError where a result cannot be read any more."""
    sides = {
        f"old: {comparison.old.model}": read_side(Path(comparison.old.path)),
        f"new: {comparison.new.model}": read_side(Path(comparison.new.path)),
    }
    names = [change.metric for change in comparison.changes]
    of = {label: {name: values(side, name).means for name in names} for label, side in sides.items()}
    margins = {o.metric: o.margin for o in comparison.outcomes}
    return markup.render(
        "comparison.html.j2",
        title=compare_report.headline(comparison),
        comparison=comparison,
        metrics=list(zip(comparison.changes, compare_report.metric_rows(comparison), strict=True)),
        metric_head=compare_report.METRIC_HEAD,
        gates=compare_report.gate_rows(comparison),
        gate_head=compare_report.GATE_HEAD,
        legend=compare_report.legend(comparison),
        notes=compare_report.notes(comparison),
        forests={c.metric: forest(c, margins.get(c.metric)) for c in comparison.changes},
        colours={FAILED: "bad", WORSE: "bad", BETTER: "good"},
        **gallery(sides, of, folder, moved(comparison.changes)),
    )


def moved(changes: Sequence[Change]) -> list[Group]:
    """The prompts that lost most and those that gained most, metric by metric, each prompt once."""
    groups, seen = [], set[str]()
    for change in changes:
        name = change.metric.replace("_", " ")
        losses = [m.id for m in change.prompts if m.loss > 0]
        gains = [m.id for m in reversed(change.prompts) if m.loss < 0]
        for title, keys in ((f"Lost most: {name}", losses), (f"Gained most: {name}", gains)):
            picked = [key for key in keys if key not in seen][:MOVED]
            seen.update(picked)
            groups += [Group(title, picked)] if picked else []
    return groups


def forest(change: Change, margin: float | None) -> Forest | None:
    """Where a change and its interval stand; None without an interval."""
    if change.interval is None:
        return None
    low, high = change.interval.low, change.interval.high
    reach = 1.1 * max(abs(low), abs(high), margin or 0) or 1.0
    low, high, at = (round(50 + 50 * x / reach, 2) for x in (low, high, change.change))
    return Forest(low, high, at, round(50 * margin / reach, 2) if margin else None)
