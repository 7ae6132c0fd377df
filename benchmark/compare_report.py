"""A comparison as text: for the terminal, as Markdown for a pull request, as JUnit XML and as JSON for CI."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import asdict

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from .compare import Change, Comparison, Moved
from .gates import FAILED, NON_INFERIOR, NOT_MEASURED, Outcome
from .paired import RATIO, SHARE
from .report import escape, grid

MOVED = 5  # prompts at either end that Markdown shows, of each metric
PROMPT_LENGTH = 120  # characters of a prompt in Markdown
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML 1.0 cannot hold


def amount(values: Sequence[float], scale: str, sign: str = "") -> str:
    """One value, or a value and the ends of its interval, in the metric's terms; `sign` "+" shows that of gains."""
    factor, unit = {RATIO.name: (100, " %"), SHARE.name: (100, " points")}.get(scale, (1, ""))
    shown = [f"{factor * value + 0.0:{sign}.3g}" for value in values]  # + 0.0: no minus before nothing
    return shown[0] + unit + (f" ({shown[1]} to {shown[2]})" if len(shown) > 1 else "")


def change_text(change: Change) -> str:
    """The change and its interval: "-0.031 (-0.052 to -0.01)"."""
    if change.interval is None:
        return "–"
    return amount((change.change, change.interval.low, change.interval.high), change.scale, "+")


def p_text(p: float | None) -> str:
    """A p-value to three digits."""
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def headline(comparison: Comparison) -> str:
    """The verdict in one line."""
    what = "passed" if comparison.passed else f"FAILED: {', '.join(comparison.failed)}"
    return f"{comparison.suite}: {comparison.new.model} against {comparison.old.model}: {what}"


def loss_text(outcome: Outcome, scale: str) -> str:
    """The one-sided bound of the loss and its level: "at least 0.012 (97.5 %)"."""
    if outcome.bound is None or outcome.level is None:
        return "–"
    side = "at most" if outcome.require == NON_INFERIOR else "at least"
    return f"{side} {amount([outcome.bound], scale)} ({100 * outcome.level:.3g} %)"


def sight(outcome: Outcome, scale: str) -> str:
    """How much a gate could have seen at this n and spread."""
    if outcome.unchanged is not None:
        return f"an unchanged model passes {100 * outcome.unchanged:.0f} % of the time"
    return "–" if outcome.detectable is None else amount([outcome.detectable], scale)


def notes(comparison: Comparison) -> list[str]:
    """What a reader must know beside the tables: failures first, then gates that are blind, then the rest."""
    said = [f"{o.metric} failed: {o.reason}" for o in comparison.outcomes if o.status == FAILED]
    for o in comparison.outcomes:
        if o.blind and o.power is not None:
            said.append(
                f"{o.metric}: n is too small to see one margin beyond the margin (it would be caught "
                f"{100 * o.power:.0f} % of the time)"
            )
        elif o.blind:
            said.append(f"{o.metric}: n is too small for the demand {NON_INFERIOR}")
    gated = {o.metric for o in comparison.outcomes}
    said += [f"{c.metric}: {c.problem}" for c in comparison.changes if c.problem and c.metric not in gated]
    unmeasured = ", ".join(o.metric for o in comparison.outcomes if o.status == NOT_MEASURED)
    return [*said, *comparison.notes, *([f"in neither result, so not gated: {unmeasured}"] if unmeasured else [])]


def metric_rows(comparison: Comparison) -> list[list[str]]:
    """The table of metrics, under METRIC_HEAD."""
    return [
        [
            c.metric,
            str(c.n),
            f"{c.old:.4g}",
            f"{c.new:.4g}",
            change_text(c),
            p_text(c.test.p if c.test else None),
            c.verdict,
        ]
        for c in comparison.changes
    ]


def gate_rows(comparison: Comparison) -> list[list[str]]:
    """The table of gates, under GATE_HEAD; without those on what neither result has."""
    scales = {change.metric: change.scale for change in comparison.changes}
    rows = []
    for o in comparison.outcomes:
        if o.status != NOT_MEASURED:
            scale = scales.get(o.metric, "")
            found = loss_text(o, scale), p_text(o.adjusted), sight(o, scale)
            rows.append([o.metric, o.require, amount([o.margin], scale), *found, o.status])
    return rows


METRIC_HEAD = ("metric", "n", "old", "new", "change", "p", "verdict")
GATE_HEAD = ("gate", "demand", "margin", "loss", "p", "sees", "outcome")


def legend(comparison: Comparison) -> str:
    """What the columns of both tables are."""
    level = f"{100 * comparison.level:g} %"
    return (
        f"Change: new against old, with its {level} interval over prompts. Loss: its one-sided confidence bound, "
        f"all gates together at {level}; gates: {comparison.gates}. Sees: the smallest true loss that this n and "
        "spread would have caught 80 % of the time."
    )


def terminal(comparison: Comparison) -> Group:
    """Two tables and the notes, for rich."""
    parts: list[Table | Text] = []
    for head, rows in ((METRIC_HEAD, metric_rows(comparison)), (GATE_HEAD, gate_rows(comparison))):
        table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
        for name in head:
            table.add_column(name, overflow="fold", no_wrap=name in ("metric", "gate", "p", "outcome"))
        for row in rows:
            table.add_row(*map(Text, row[:-1]), Text(row[-1], style="bold red" if row[-1] == FAILED else ""))
        parts.append(table)
    parts += [Text(legend(comparison), style="dim"), *(Text(f"- {note}") for note in notes(comparison))]
    return Group(*parts, Text(headline(comparison), style="bold"))


def markdown(comparison: Comparison) -> str:
    """A pull-request comment or a job summary."""
    lines = [f"## {escape(headline(comparison))}", ""]
    lines += [_table(METRIC_HEAD, metric_rows(comparison)), "", _table(GATE_HEAD, gate_rows(comparison))]
    lines += ["", escape(legend(comparison)), "", *(f"- {escape(note)}" for note in notes(comparison))]
    for change in comparison.changes:
        lines += _moved(change)
    lines += ["", "<details><summary>What was compared</summary>", ""]
    for which, of in ("old", comparison.old), ("new", comparison.new):
        lines.append(f"- {which}: {escape(f'{of.model}; {of.settings}; {of.created}; commit {of.commit}; {of.path}')}")
    for c in comparison.changes:
        if c.interval and c.test:
            lines.append(f"- {escape(f'{c.metric} ({c.unit}): interval {c.interval.method}; p {c.test.method}')}")
    return "\n".join([*lines, "", "</details>"]) + "\n"


def _moved(change: Change) -> list[str]:
    """The prompts that moved most, either way, folded up."""
    lost = [m for m in change.prompts if m.loss > 0][:MOVED]
    gained = [m for m in change.prompts if m.loss < 0][-MOVED:]
    if not (lost or gained):
        return []

    def row(moved: Moved) -> list[str]:
        text = moved.prompt if len(moved.prompt) <= PROMPT_LENGTH else moved.prompt[: PROMPT_LENGTH - 1] + "…"
        return [moved.id, text, f"{moved.old:.4g}", f"{moved.new:.4g}"]

    table = _table(["id", "prompt", "old", "new"], [row(m) for m in (*lost, *gained)])
    return [
        "",
        f"<details><summary>Prompts that moved most: {escape(change.metric)}</summary>",
        "",
        table,
        "",
        "</details>",
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return grid(head, [list(map(escape, row)) for row in rows])


def junit(comparison: Comparison) -> str:
    """JUnit XML: a test case a gate; a gate on what was not measured is skipped."""
    scales = {change.metric: change.scale for change in comparison.changes}
    failures = len(comparison.failed)
    skipped = sum(o.status == NOT_MEASURED for o in comparison.outcomes)
    counts = {"tests": str(len(comparison.outcomes)), "failures": str(failures), "errors": "0", "skipped": str(skipped)}
    name = f"pdmd compare {comparison.suite}"
    root = ET.Element("testsuites", {"name": name, **counts})
    suite = ET.SubElement(root, "testsuite", {"name": name, **counts})
    for o in comparison.outcomes:
        case = ET.SubElement(suite, "testcase", {"classname": f"pdmd.{comparison.suite}", "name": _xml(o.metric)})
        scale = scales.get(o.metric, "")
        found = f"loss {loss_text(o, scale)}, margin {amount([o.margin], scale)}, sees {sight(o, scale)}"
        if o.status == FAILED:
            ET.SubElement(case, "failure", {"message": _xml(o.reason)}).text = _xml(found)
        elif o.status == NOT_MEASURED:
            ET.SubElement(case, "skipped", {"message": _xml(o.reason)})
        else:
            ET.SubElement(case, "system-out").text = _xml(found)
    ET.indent(root)
    return ET.tostring(root, encoding="utf-8", xml_declaration=True).decode() + "\n"


def _xml(text: str) -> str:
    return NOT_XML.sub("\ufffd", text)


def as_json(comparison: Comparison) -> str:
    """Everything, with `passed` on top."""
    return json.dumps({"passed": comparison.passed, **asdict(comparison)}, indent=2, allow_nan=False) + "\n"


def show(comparison: Comparison, console: Console | None = None) -> None:
    """Print to the terminal."""
    (console or Console()).print(terminal(comparison))
