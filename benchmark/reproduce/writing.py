"""What was found of a table's parts, as Markdown and for JSON."""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..frechet import NAME as FRECHET
from ..paired import FLOW_FLOOR
from ..report import grid
from ..sides import Side
from . import verdict
from .measure import facts, mean, one_number, values
from .table import BASE, Done, Judged, Part, judge
from .verdict import Lead
from .work import Work

RATIOS = ("optical_flow", "optical_flow_dis", "flow_read")


def section(done: Done, picture: Path) -> str:
    """A part as Markdown: its figures, its orderings, its picture."""
    part, of = done.part, done.sides[BASE][0].result.generation
    columns = ["fidelity", *done.metrics, FRECHET]
    seeds = f"{len(of['suite']['seeds'])} samples a prompt"
    return f"""## {part.title}

{figures(done.sides, columns)}

Mean over training seeds {", ".join(map(str, done.seeds))} (in brackets each one's own); n = {done.prompts} prompts of
`{of["prompts"]["file"]}` ({of["prompts"]["sha256"][:8]}), {seeds}.

{orderings(done.judged)}
![{part.title}]({picture.name})
"""


def figures(sides: Mapping[str, Sequence[Side]], columns: Sequence[str], ids: Container[str] | None = None) -> str:
    """A Markdown table of each row's numbers, over all prompts or these."""
    return grid(("", *columns), [(label, *(_cell(row, name, ids) for name in columns)) for label, row in sides.items()])


def _cell(row: Sequence[Side], metric: str, ids: Container[str] | None) -> str:
    """The mean over training seeds, and each one's own."""
    if metric == FRECHET:
        each = [x for x in one_number(row, metric) if x is not None]
    else:
        each = [mean([one]) for one in values(row, metric, ids) if one]
    if not each:
        return "–"
    return f"{sum(each) / len(each):.4f}" + (f" ({', '.join(f'{x:.4f}' for x in each)})" if len(each) > 1 else "")


def orderings(judged: Sequence[Judged]) -> str:
    """The orderings as a Markdown table; nothing where there are none."""
    if not judged:
        return ""
    head = ["ordering", "on", "prompts", "lead (95 % over prompts)", "d"]
    head += ["p over prompts", "p over training seeds", "p, Holm", ""]
    rows = []
    for one in judged:
        found = one.finding
        why = f"**{found.verdict}**" + (f" ({found.reason})" if found.reason else "")
        cells = [f"{one.more} > {one.less}", one.metric, found.lead.n]
        cells += [effect(one.metric, found.lead), number(found.lead.d)]
        cells += [number(found.lead.over_prompts), number(found.lead.over_seeds), number(found.p), why]
        rows.append(cells)
    return grid(head, rows) + "\n"


def effect(metric: str, lead: Lead) -> str:
    """A lead in the metric's own terms: a difference, for flow a ratio of geometric means."""
    if lead.n == 0:
        return "–"
    bounds = [lead.mean] + ([lead.interval.low, lead.interval.high] if lead.interval else [])
    shown = [f"x {math.exp(b):.3f}" if metric in RATIOS else f"{b:+.4f}" for b in bounds]
    return shown[0] + (f" ({shown[1]} to {shown[2]})" if len(shown) == 3 else "")


def number(value: float | None) -> str:
    """To three digits; a dash where there is none."""
    return "–" if value is None else f"{value:.3g}"


def settings(done: Sequence[Done], work: Work) -> str:
    """How to read it, and what was run."""
    students = {s.name: s for d in done for row in d.students.values() for s in row}
    swept = "given" if work.rate is not None else "chosen in [sweep.md](sweep.md)"
    rate = {s.variant.method: s.lr for s in students.values()}
    near, far = 100 * verdict.WITHIN, 100 * verdict.OF_BASE
    return f"""## How to read it

The means above are arithmetic, over all samples that have a value. Lead: positive where the first has more, on the
metric's own terms (similarity: less of it; flow: the ratio of geometric means, under {FLOW_FLOOR:g} as that), over the
prompts that have a value in every training seed of both: `flow_read` has none for a clip in which no object is legible.
d: the mean lead over its standard deviation between prompts. An ordering holds where both a test over prompts (sign
flip, training seeds averaged) and one over training seeds (Student's, prompts averaged) show it, the larger p adjusted
by Holm over the metric's orderings; it does not hold where they show the reverse; else it is undecided. Diversity and
motion are compared at equal fidelity alone: within {near:.0f} points of each other, and within {far:.0f} of the base.

## What was run

Every student has the same budget, unless its row says otherwise: generator steps, fits of F, batch. Learning rates:
{swept} ({", ".join(f"{method} {lr:g}" for method, lr in rate.items())}).

{chr(10).join(f"    {s.command(work)}" for s in students.values())}
"""


def again(one: Done, part: Part, title: str, ids: Collection[str], of: str) -> tuple[str, list[dict[str, Any]]]:
    """A part's models over some of its prompts (`of`: how many, in words), judged as `part` says: as Markdown, and for
    JSON."""
    judged = judge(part, one.sides, one.metrics, ids)
    text = f"## {title}\n\n{of}\n\n{figures(one.sides, ['fidelity', *one.metrics], ids)}\n\n{orderings(judged)}"
    return text, [{"part": title, "n_prompts": len(ids)} | plain(each) for each in judged]


def plain(one: Judged) -> dict[str, Any]:
    """An ordering for JSON: `p` is the larger of the two, adjusted; None where one of them cannot be had."""
    found = one.finding
    named = {"ordering": f"{one.more} > {one.less}", "on": one.metric, "verdict": found.verdict, "why": found.reason}
    return named | {"p": found.p, "lead": asdict(found.lead)}


def as_json(done: Done, work: Work) -> dict[str, Any]:
    """All that the tests were made of: every value by training seed and prompt, to six digits."""

    def row(label: str) -> dict[str, Any]:
        named = ("fidelity", *done.metrics)
        of = {
            m: [{k: float(f"{v:.6g}") for k, v in one.items()} for one in values(done.sides[label], m)] for m in named
        }
        return {"results": [facts(s) for s in done.sides[label]], FRECHET: one_number(done.sides[label], FRECHET)} | {
            "values": of,
            "commands": [s.command(work) for s in done.students.get(label, [])],
        }

    part = done.part
    return {
        "title": part.title,
        "samples": part.samples,
        "training_seeds": done.seeds,
        "looks": part.looks,
        "n_prompts": done.prompts,
        "orderings": [plain(one) for one in done.judged],
        "rows": {label: row(label) for label in done.sides},
    }
