"""Gates: what a new result may not lose. Read from TOML; decided over all gates together.

A gate speaks of the mean loss over prompts, in its metric's own direction, and holds one of two demands:

    not-worse      (the default) fails where the loss is shown to exceed the margin: its one-sided lower
                   confidence bound lies past the margin. Holm over all such gates: two results of models whose
                   true losses lie within the margins alarm in at most 1 - level of comparisons.
    non-inferior   fails where the loss is not shown to be below the margin: its one-sided upper confidence bound
                   does not lie short of it. Each at the level itself, since all must pass (intersection-union):
                   models of which any loses more than the margin pass in at most 1 - level of comparisons.

The first forgives where n is small, the second does not; both say how much they could have seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pdmd.errors import UserError, first_line, suggest
from pdmd.files import parse_toml

from . import stats
from .paired import POWER, Pair, detectable
from .stats import Step

FIDELITY = "fidelity"
FIDELITY_MARGIN = 0.07  # of the gate that comes along where a file has none
NOT_WORSE, NON_INFERIOR = "not-worse", "non-inferior"
PASSED, FAILED, NOT_MEASURED = "passed", "failed", "not measured"
FILE_KEYS = ("suite", "level", "without_fidelity", "gate")
GATE_KEYS = ("margin", "require", "optional")


@dataclass(frozen=True)
class Gate:
    """One gate. `margin`: the loss that is forgiven, in the metric's unit; for optical flow the share of it.
    `optional`: passed over where neither result has the metric."""

    metric: str
    margin: float
    require: str = NOT_WORSE
    optional: bool = False


@dataclass(frozen=True)
class Gates:
    """A gates file. `level` is that of all gates together; `without_fidelity` accepts results that have none."""

    source: str
    gates: tuple[Gate, ...]
    level: float = stats.LEVEL
    suite: str | None = None
    without_fidelity: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of a gate. Losses are as stated: `bound` is the one-sided confidence bound at `level` (lower for
    not-worse, upper for non-inferior), `adjusted` Holm's p-value of "the loss is within the margin" (for
    non-inferior the plain one of "it is not"). `detectable` is the smallest true loss that a not-worse gate would
    have caught with a chance of POWER at this n and spread, `power` its chance to catch a loss of one margin
    beyond the margin; `unchanged` is the chance of a non-inferior gate to pass a model that lost nothing."""

    metric: str
    margin: float
    require: str
    status: str
    reason: str = ""
    bound: float | None = None
    level: float | None = None
    adjusted: float | None = None
    detectable: float | None = None
    power: float | None = None
    unchanged: float | None = None

    @property
    def blind(self) -> bool:
        """Whether this n is too small for what the gate is for."""
        chance = self.unchanged if self.require == NON_INFERIOR else self.power
        return chance is not None and chance < POWER


def read_gates(path: Path) -> Gates:
    """A gates file. Raises UserError for one that cannot be read, is not TOML, or says what it cannot."""
    try:
        return parse_gates(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the gates {path}: {getattr(error, 'strerror', None) or error}") from None


def default_gates(suite: str) -> Gates:
    """The gates that ship with the package. Raises UserError for a suite that has none."""
    folder = files("pdmd.benchmark").joinpath("gates")
    names = sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))
    if suite not in names:
        raise UserError(f"no gates ship for the suite {suite!r} (for: {', '.join(names)}); give a gates file")
    return parse_gates(folder.joinpath(f"{suite}.toml").read_text(encoding="utf-8"), f"default ({suite}.toml)")


def parse_gates(text: str, where: str) -> Gates:
    """Gates from TOML text; a fidelity gate comes along where any other is. Raises UserError."""
    try:
        table = parse_toml(text)
    except ValueError as error:
        raise UserError(f"gates {where}: not TOML ({first_line(error)})") from None
    _known(table, FILE_KEYS, f"gates {where}")
    rows = table.get("gate")
    if not isinstance(rows, dict) or not rows:
        raise UserError(f"gates {where}: there is no gate; write [gate.METRIC] and a margin")
    gates = [_gate(metric, row, f"gates {where}, [gate.{metric}]") for metric, row in rows.items()]
    if FIDELITY not in rows:
        gates.insert(0, Gate(FIDELITY, FIDELITY_MARGIN))
    return Gates(
        source=where,
        gates=tuple(gates),
        level=_number(table, "level", 0.5, 1, f"gates {where}", stats.LEVEL),
        suite=_typed(table, "suite", str, f"gates {where}", None),
        without_fidelity=_typed(table, "without_fidelity", bool, f"gates {where}", False),
    )


def _gate(metric: str, row: Any, where: str) -> Gate:
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected a table with a margin, got {row!r}")
    _known(row, GATE_KEYS, where)
    if "margin" not in row:
        raise UserError(f"{where}: the margin is missing; it is the loss that is forgiven")
    require = row.get("require", NOT_WORSE)
    if require not in (NOT_WORSE, NON_INFERIOR):
        raise UserError(f"{where}: require = {require!r}; {suggest(str(require), (NOT_WORSE, NON_INFERIOR))}")
    return Gate(metric, _number(row, "margin", 0, 1, where), require, _typed(row, "optional", bool, where, False))


def _known(table: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    for key in table:
        if key not in keys:
            raise UserError(f"{where}: no key {key!r}; {suggest(key, keys)}")


def _number(
    table: Mapping[str, Any], key: str, low: float, high: float, where: str, default: float = math.nan
) -> float:
    value = table.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low < value < high:
        raise UserError(f"{where}: {key} = {value!r} is not a number between {low:g} and {high:g}, both left out")
    return float(value)


def _typed(table: Mapping[str, Any], key: str, kind: type, where: str, default: Any) -> Any:
    value = table.get(key, default)
    if key in table and not isinstance(value, kind):
        raise UserError(f"{where}: {key} = {value!r} is not {'true or false' if kind is bool else 'a text'}")
    return value


def decide(gates: Gates, pairs: Mapping[str, Pair], problems: Mapping[str, str]) -> tuple[Outcome, ...]:
    """The outcome of every gate, in the file's order. `pairs` are the metrics that both results have, `problems`
    say by metric why a gate on it cannot pass; a gate whose metric is in neither was not measured."""
    alpha = 1 - gates.level
    sound = {g.metric: g for g in gates.gates if g.metric in pairs and g.metric not in problems}
    tested = [g for g in sound.values() if g.require == NOT_WORSE]
    p_values = [pairs[g.metric].scale.beyond(*pairs[g.metric].loss, _inner(pairs[g.metric], g)) for g in tested]
    steps = {g.metric: step for g, step in zip(tested, stats.holm(p_values, alpha), strict=True)}
    outcomes = []
    for gate in gates.gates:
        if gate.metric in problems:
            outcomes.append(Outcome(gate.metric, gate.margin, gate.require, FAILED, problems[gate.metric]))
        elif gate.metric not in pairs:
            outcomes.append(Outcome(gate.metric, gate.margin, gate.require, NOT_MEASURED, "neither result has it"))
        elif gate.require == NOT_WORSE:
            outcomes.append(_not_worse(gate, pairs[gate.metric], steps[gate.metric], alpha / len(tested)))
        else:
            outcomes.append(_non_inferior(gate, pairs[gate.metric], gates.level))
    return tuple(outcomes)


def _inner(pair: Pair, gate: Gate) -> float:
    return pair.scale.inner(gate.margin)


def _not_worse(gate: Gate, pair: Pair, step: Step, alpha: float) -> Outcome:
    """Power at `alpha`, Holm's first and strictest step: that of a loss in this metric alone."""
    scale, margin = pair.scale, _inner(pair, gate)
    return Outcome(
        metric=gate.metric,
        margin=gate.margin,
        require=gate.require,
        status=FAILED if step.rejected else PASSED,
        reason="the loss is shown to exceed the margin" if step.rejected else "",
        bound=scale.stated(scale.bound(*pair.loss, step.level)),
        level=step.level,
        adjusted=step.adjusted,
        detectable=scale.stated(detectable(scale, *pair.loss, margin, alpha)),
        power=scale.power(*pair.loss, 2 * margin, margin, alpha),
    )


def _non_inferior(gate: Gate, pair: Pair, level: float) -> Outcome:
    scale, margin, gain = pair.scale, _inner(pair, gate), pair.loss[::-1]
    p = scale.beyond(*gain, -margin)
    failed = p > 1 - level
    return Outcome(
        metric=gate.metric,
        margin=gate.margin,
        require=gate.require,
        status=FAILED if failed else PASSED,
        reason="the loss is not shown to be below the margin" if failed else "",
        bound=scale.stated(-scale.bound(*gain, level)),
        level=level,
        adjusted=p,
        unchanged=scale.power(*gain, 0.0, -margin, 1 - level),
    )
