"""Two results -> a verdict a metric, an outcome a gate, and whether the new one passes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pdmd.errors import UserError, suggest

from . import gates as gate_files
from .gates import FAILED, FIDELITY, Gates, Outcome, decide
from .paired import BETTER, UNDECIDED, Scale, verdict
from .result import by_prompt
from .sides import Joined, Side, join, read_side, refuse
from .stats import Interval, PValue

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Moved:
    """One prompt's values, old and new, and its loss on the metric's scale (positive: lost). The files are those
    of its first sample, relative to each result's folder."""

    id: str
    prompt: str
    old: float
    new: float
    loss: float
    old_file: str
    new_file: str


@dataclass(frozen=True)
class Change:
    """What became of one metric. `old` and `new` are means over the `n` prompts that are sound in both; `change`
    is new against old, for scale "ratio" the ratio of geometric means minus 1, with its interval. `prompts`
    run from the greatest loss to the greatest gain."""

    metric: str
    unit: str
    direction: str
    scale: str
    n: int
    old: float
    new: float
    change: float
    interval: Interval | None
    test: PValue | None
    verdict: str
    problem: str | None
    prompts: tuple[Moved, ...]


@dataclass(frozen=True)
class Of:
    """Whose result a side is."""

    model: str
    path: str
    created: str
    commit: str
    settings: str


@dataclass(frozen=True)
class Comparison:
    """All that a report of a comparison needs. `level` is that of the intervals, and of all gates together."""

    schema_version: int
    suite: str
    old: Of
    new: Of
    gates: str
    level: float
    changes: tuple[Change, ...]
    outcomes: tuple[Outcome, ...]
    notes: tuple[str, ...]

    @property
    def failed(self) -> list[str]:
        """The metrics whose gates failed."""
        return [outcome.metric for outcome in self.outcomes if outcome.status == FAILED]

    @property
    def passed(self) -> bool:
        return not self.failed


def compare(
    baseline: Path,
    new: Path,
    gates_file: Path | None = None,
    same_noise: bool = True,
    without_fidelity: bool = False,
) -> Comparison:
    """Compare two results (result.json or its folder) by a gates file, or by the gates that ship for the suite. Without
    `same_noise` their seeds may differ; `without_fidelity` accepts results that have none, as such a file can.

    Raises UserError for results that are not whole or not comparable, and for gates that do not fit them.
    """
    old_side, new_side = read_side(baseline), read_side(new)
    refuse(old_side, new_side, same_noise)
    suite = old_side.result.suite
    gates = gate_files.read_gates(gates_file) if gates_file else gate_files.default_gates(suite)
    gates = replace(gates, without_fidelity=gates.without_fidelity or without_fidelity)
    _fit(gates, old_side, new_side)
    both = [m.name for m in old_side.result.metrics if new_side.result.metric(m.name) and by_prompt(m.name)]
    joined = [join(old_side, new_side, name) for name in sorted(both, key=lambda name: name != FIDELITY)]
    problems = {j.pair.metric: j.problem for j in joined if j.problem} | _absent(gates, old_side, new_side)
    outcomes = decide(gates, {j.pair.metric: j.pair for j in joined}, problems)
    margins = {gate.metric: gate.margin for gate in gates.gates}
    changes = [_change(j, old_side, new_side, gates.level, margins.get(j.pair.metric)) for j in joined]
    broke = any(o.metric == FIDELITY and o.status == FAILED for o in outcomes)
    notes = [
        f"{c.metric} is better in number alone: fidelity failed its gate, and diversity and motion rise with artefacts"
        for c in changes
        if broke and c.verdict == BETTER and c.metric != FIDELITY
    ]
    return Comparison(
        schema_version=SCHEMA_VERSION,
        suite=suite,
        old=_of(old_side),
        new=_of(new_side),
        gates=gates.source,
        level=gates.level,
        changes=tuple(replace(c, verdict=UNDECIDED) if broke and c.verdict == BETTER else c for c in changes),
        outcomes=outcomes,
        notes=(*notes, *_unstated(old_side, new_side)),
    )


def _fit(gates: Gates, old: Side, new: Side) -> None:
    """Raise UserError for gates of another suite, or on what nobody computed."""
    if gates.suite not in (None, old.result.suite):
        raise UserError(
            f"gates {gates.source} are for the suite {gates.suite!r}, the results are of {old.result.suite!r}"
        )
    computed = {m.name for side in (old, new) for m in side.result.metrics}
    others = [gate for gate in gates.gates if gate.metric != FIDELITY]
    for gate in others:
        if not by_prompt(gate.metric):
            raise UserError(f"gates {gates.source}: {gate.metric} is no mean over prompts, which is what a gate is on")
        if gate.metric not in computed and not gate.optional:
            raise UserError(
                f"gates {gates.source}: neither result has {gate.metric!r}; {suggest(gate.metric, sorted(computed))}"
            )
    if others and not computed & {gate.metric for gate in others}:
        names = ", ".join(gate.metric for gate in others)
        raise UserError(f"gates {gates.source}: neither result has any of {names}; there is nothing to compare")


def _absent(gates: Gates, old: Side, new: Side) -> dict[str, str]:
    """The gates that fail because a result lacks their metric, and why it does."""
    found = {}
    for gate in gates.gates:
        lacking = [s for s in (old, new) if s.result.metric(gate.metric) is None]
        reasons = {m.metric: m.reason for side in lacking for m in side.result.missing}
        why = f" ({reasons[gate.metric]})" if gate.metric in reasons else ""
        if len(lacking) == 1:
            side = "old" if lacking[0] is old else "new"
            found[gate.metric] = f"the {side} result does not have it{why}"
        elif len(lacking) == 2 and gate.metric == FIDELITY and not gates.without_fidelity:
            found[gate.metric] = (
                f"neither result has it{why}, and nothing else can be read without it; to accept that: "
                "--without-fidelity, or without_fidelity = true in the gates file"
            )
    return found


def _change(joined: Joined, old: Side, new: Side, level: float, margin: float | None) -> Change:
    """The change of one metric over the prompts that are sound on both sides."""
    pair, scale = joined.pair, joined.pair.scale
    metric = old.result.metric(pair.metric)
    assert metric is not None
    gain = scale.interval(*pair.loss[::-1], level)
    sound = joined.problem is None
    return Change(
        metric=pair.metric,
        unit=metric.unit,
        direction=pair.direction,
        scale=scale.name,
        n=len(joined.ids),
        old=_mean(pair.old),
        new=_mean(pair.new),
        change=-scale.stated(_mean(scale.drops(pair.old, pair.new))),
        interval=_shown(gain, scale, pair.direction),
        test=scale.test(*pair.loss) if gain else None,
        verdict=verdict(gain, None if margin is None else scale.inner(margin)) if sound else UNDECIDED,
        problem=joined.problem,
        prompts=tuple(_moved(joined, old, new)),
    )


def _mean(x: np.ndarray) -> float:
    return float(x.mean()) if len(x) else 0.0


def _shown(gain: Interval | None, scale: Scale, direction: str) -> Interval | None:
    """The interval of the change, new against old, from that of the gain."""
    if gain is None:
        return None
    low, high = (gain.low, gain.high) if direction == "higher" else (-gain.high, -gain.low)
    return replace(gain, low=-scale.stated(-low), high=-scale.stated(-high))


def _moved(joined: Joined, old: Side, new: Side) -> Iterator[Moved]:
    """Every prompt, from the greatest loss to the greatest gain; ties in the order of the prompts."""
    texts, old_files, new_files = old.first("prompt"), old.first("file"), new.first("file")
    losses = joined.pair.scale.drops(*joined.pair.loss)
    for i in np.argsort(-losses, kind="stable"):
        key = joined.ids[i]
        yield Moved(
            id=key,
            prompt=texts.get(key, ""),
            old=float(joined.pair.old[i]),
            new=float(joined.pair.new[i]),
            loss=float(losses[i]),
            old_file=old_files.get(key, ""),
            new_file=new_files.get(key, ""),
        )


def _of(side: Side) -> Of:
    made, model = side.result.provenance, side.result.generation.get("model", {})
    git = made.get("git") or {}
    settings = [f"{key} {model[key]}" for key in ("sampler", "steps", "guidance") if model.get(key) is not None]
    return Of(
        model=side.result.model,
        path=str(side.path),
        created=str(made.get("created", "")),
        commit=str(git.get("commit", ""))[:12] + (" with changes" if git.get("changed") else ""),
        settings=", ".join(settings),
    )


def _unstated(old: Side, new: Side) -> Iterator[str]:
    for which, side in ("old", old), ("new", new):
        if not side.result.generation.get("prompts"):
            yield f"the {which} result does not state how its media was made: only what items.csv says was compared"
