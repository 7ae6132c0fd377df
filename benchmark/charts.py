"""Numbers -> what the pages draw: every length is a share of the chart's width or height."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator

from .result import Metric, Result

BINS = 24


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, with ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """Where a value stands, in percent."""
        return round(100 * (value - self.low) / (self.high - self.low), 3)


@dataclass(frozen=True)
class Bar:
    """One model's value and, where it has one, its interval."""

    model: str
    metric: Metric


@dataclass(frozen=True)
class Bars:
    """One metric of every model; bars start at zero."""

    name: str
    axis: Axis
    bars: Sequence[Bar]

    @property
    def metric(self) -> Metric:
        return self.bars[0].metric


@dataclass(frozen=True)
class Histogram:
    """How a model's values spread over prompts: `edges` of the bins in percent, their `counts`."""

    model: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    metric: Metric

    @property
    def n(self) -> int:
        return sum(self.counts)


@dataclass(frozen=True)
class Spread:
    """One metric's distribution over prompts, a row a model on one axis; `most` is the tallest bin's count."""

    name: str
    axis: Axis
    rows: Sequence[Histogram]

    @property
    def metric(self) -> Metric:
        return self.rows[0].metric

    @property
    def most(self) -> int:
        return max(max(row.counts) for row in self.rows)


def axis(low: float, high: float) -> Axis:
    """Round ticks around a range; around a single value, from zero to it."""
    if low == high:
        low, high = min(low, 0), max(high, 0) or float(low == 0)
    ticks = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return Axis(float(ticks[0]), float(ticks[-1]), tuple(map(float, ticks)))


def bars(results: Mapping[str, Result], names: Sequence[str]) -> list[Bars]:
    """A chart a metric, of the results (by label) that have it."""
    charts = []
    for name in names:
        found = [Bar(label, metric) for label, r in results.items() if (metric := r.metric(name))]
        ends = [e for b in found for e in (b.metric.value, *_ends(b.metric))]
        charts.append(Bars(name, axis(min(0, *ends), max(0, *ends)), found))
    return charts


def spreads(
    results: Mapping[str, Result], values: Mapping[str, Mapping[str, Mapping[str, float]]], names: Sequence[str]
) -> list[Spread]:
    """A chart a metric of its values by label, metric and prompt; none where a metric has no value a prompt."""
    charts = []
    for name in names:
        of = {label: list(values[label][name].values()) for label in results if values[label].get(name)}
        if not of:
            continue
        every = [v for group in of.values() for v in group]
        scale = axis(min(every), max(every))
        edges = np.linspace(scale.low, scale.high, BINS + 1)
        rows = []
        for label, group in of.items():
            metric = results[label].metric(name)
            assert metric is not None
            counts = np.histogram(group, edges)[0]
            rows.append(Histogram(label, tuple(map(scale.at, edges)), tuple(map(int, counts)), metric))
        charts.append(Spread(name, scale, rows))
    return charts


def _ends(metric: Metric) -> tuple[float, ...]:
    return (metric.interval.low, metric.interval.high) if metric.interval else ()


def figure(value: float, unit: str = "", digits: int = 1) -> str:
    """A number for a table: shares of videos in percent with so many digits, others with three or so."""
    if unit.startswith("share of videos"):
        return f"{100 * value:.{digits}f}\xa0%"
    size = abs(value)
    return f"{value:.2f}" if size >= 1 else f"{value:.3f}" if size >= 0.1 or value == 0 else f"{value:.3g}"


def answer(value: float, unit: str) -> str:
    """A number of one prompt: where it is a share of videos, whether this one is one."""
    if unit.startswith("share of videos") and value in (0, 1):
        return "yes" if value else "no"
    return figure(value)


def tick(value: float, unit: str) -> str:
    """A number on an axis."""
    return f"{100 * value:g}\xa0%" if unit.startswith("share of videos") else f"{value:g}"
