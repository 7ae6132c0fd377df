"""A table as data, and what makes it: students, results, orderings, then NAME.json, NAME.md and pictures."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pdmd.errors import UserError
from pdmd.files import write_text

from .. import provenance
from ..frechet import NAME as FRECHET
from ..report import grid
from ..sides import Side
from . import verdict
from .draw import draw
from .measure import Values, differences, facts, is_kept, mean, measured, metrics_of, one_number, values
from .sweep import rates
from .verdict import Finding, Lead
from .work import Student, Variant, Work, there, train

BASE = "base"
DIVERSITY = ("dinov3_similarity", "lpips", "sprites_similarity", "sprites_distance", "factor_diversity")
MOTION = ("optical_flow", "dynamic_degree", "optical_flow_dis", "dynamic_degree_dis", "flow_read")
RATIOS = ("optical_flow", "optical_flow_dis", "flow_read")


@dataclass(frozen=True)
class Part:
    """One comparison: `rows` by label, the base model's beside them; `metrics` on which each of `orderings` (the first
    leads the second) is judged at equal fidelity; `worse`: pairs whose second is to have the lower fidelity. `seeds`
    are training seeds; with `i2v` all is of the image-to-video teacher, with `media` the samples are looked at too."""

    title: str
    samples: str
    rows: Mapping[str, Variant]
    metrics: tuple[str, ...]
    orderings: tuple[tuple[str, str], ...] = ()
    worse: tuple[tuple[str, str], ...] = ()
    seeds: int = 3
    i2v: bool = False
    media: bool = False

    def teacher(self, work: Work) -> str:
        return work.i2v_teacher if self.i2v else work.teacher

    def students(self, work: Work, rate: Mapping[str, float]) -> dict[str, list[Student]]:
        """Each row's, one a training seed; `rate` by method."""
        of = self.teacher(work)
        return {
            label: [Student(row, of, rate[row.method], seed) for seed in work.seeds_of(self.seeds)]
            for label, row in self.rows.items()
        }


def images_and_clips(
    rows: Mapping[str, Variant],
    orderings: tuple[tuple[str, str], ...],
    worse: tuple[tuple[str, str], ...] = (),
    seeds: int = 3,
    of: str = "",
) -> tuple[Part, Part]:
    """The same rows twice, their titles begun with `of`: the diversity of images, the motion of clips."""
    titles = [f"{of}: {what}" if of else what.capitalize() for what in ("images", "clips")]
    return (
        Part(titles[0], "images", rows, DIVERSITY, orderings, worse, seeds),
        Part(titles[1], "motion", rows, MOTION, orderings, worse, seeds),
    )


@dataclass(frozen=True)
class Table:
    """`note` is what must be said with it. `more`, where a table has it, makes of its parts further Markdown, and what
    JSON has of that."""

    name: str
    title: str
    parts: tuple[Part, ...]
    note: str = ""
    more: Callable[[Sequence[Done], Work], tuple[str, dict[str, Any]]] | None = None

    @property
    def methods(self) -> list[str]:
        """Those whose learning rate the table needs."""
        return list(dict.fromkeys(row.method for part in self.parts for row in part.rows.values()))


@dataclass(frozen=True)
class Judged:
    """An ordering on a metric: `more` leads `less`."""

    metric: str
    more: str
    less: str
    finding: Finding


@dataclass(frozen=True)
class Done:
    """A part's results: sides by label (one a training seed), what was judged."""

    part: Part
    students: Mapping[str, Sequence[Student]]
    sides: Mapping[str, Sequence[Side]]
    metrics: Sequence[str]
    judged: Sequence[Judged]

    @property
    def prompts(self) -> int:
        return int(self.sides[BASE][0].result.generation["prompts"]["n"])

    @property
    def seeds(self) -> list[int]:
        return [student.seed for student in next(iter(self.students.values()))]


def prepare(tables: Sequence[Table], work: Work) -> dict[str, float]:
    """Train every student that these tables lack, and measure it at once in all that they ask of it, so that a machine
    that goes away takes one student with it. Returns the learning rate of each method."""
    rate = rates(work, [method for table in tables for method in table.methods])
    parts = [part for table in tables for part in table.parts if there(part.teacher(work))]
    of: dict[Student, list[Part]] = {}
    for part in parts:
        for student in (s for row in part.students(work, rate).values() for s in row):
            of.setdefault(student, []).append(part)
    lack = [s for s, each in of.items() if any(part.media or not is_kept(work, part.samples, s) for part in each)]

    def measure(student: Student) -> None:
        for part in of[student]:
            measured(work, part.samples, part.teacher(work), [student], media=part.media)

    if lost := train(work, lack, measure):
        raise UserError(f"{', '.join(lost)}: {next(iter(lost.values()))}")
    return rate


def make(table: Table, work: Work) -> Path:
    """Make all parts of a table, what they lack first, and write it; the path of its Markdown."""
    rate = prepare([table], work)
    done: list[Done] = []
    missing: dict[str, str] = {}
    for part in table.parts:
        if there(part.teacher(work)):
            done.append(run(part, work, rate))
        else:
            missing[part.title] = absent(part, work)
            print(f"{table.name}, {part.title}: {missing[part.title]}")
    texts = []
    for one in done:
        picture = work.out / f"{table.name}-{re.sub('[^a-z]+', '-', one.part.title.lower())}.png"
        draw(picture, {label: row[0] for label, row in one.sides.items()})
        texts.append(section(one, picture))
    texts += [f"## {title}\n\n**Missing.** {reason}\n" for title, reason in missing.items()]
    content: dict[str, Any] = {"title": table.title, "command": work.command, "provenance": provenance.record()}
    content |= {"parts": [as_json(one, work) for one in done], "missing": missing, "note": table.note}
    if table.more:
        text, further = table.more(done, work)
        texts.append(text)
        content |= further
    path = work.out / f"{table.name}.md"
    note = f"\n{table.note}\n" if table.note else ""
    head = f"# {table.title}\n\n`{work.command}`, commit {provenance.commit_text()}.\n{note}"
    write_text(path, "\n".join([head, *texts, settings(done, work)]))
    write_text(path.with_suffix(".json"), json.dumps(content, indent=1, allow_nan=False) + "\n")
    return path


def absent(part: Part, work: Work) -> str:
    """What a part lacks and how to get it."""
    option = "--i2v-teacher" if part.i2v else "--teacher"
    return (
        f"There is no teacher {part.teacher(work)} here, so nothing was made. Where there is one, the same command "
        f"makes this part and keeps the rest; or give {option} DIR."
    )


def run(part: Part, work: Work, rate: Mapping[str, float]) -> Done:
    """Judge a part by its students' results."""
    students = part.students(work, rate)
    every = [s for row in students.values() for s in row]
    found = measured(work, part.samples, part.teacher(work), every, media=part.media)
    sides = {BASE: [found[BASE]]} | {label: [found[s.name] for s in row] for label, row in students.items()}
    metrics = metrics_of(sides, part.metrics)
    return Done(part, students, sides, metrics, judge(part, sides, metrics))


def judge(
    part: Part, sides: Mapping[str, Sequence[Side]], metrics: Sequence[str], ids: Container[str] | None = None
) -> list[Judged]:
    """Every ordering on every metric, over all prompts or these; Holm's family is a metric's orderings."""
    fidelity = {label: mean(values(row, "fidelity", ids)) for label, row in sides.items()}
    families = {"fidelity": part.worse} | dict.fromkeys(metrics, part.orderings)
    judged = []
    for metric, pairs in families.items():
        row: dict[str, Values] = {label: values(sides[label], metric, ids) for label in {x for p in pairs for x in p}}
        leads = [verdict.lead(differences(metric, row[more], row[less])) for more, less in pairs]
        reasons = [
            "" if metric == "fidelity" else verdict.unequal(fidelity[a], fidelity[b], fidelity[BASE], a == BASE)
            for a, b in pairs
        ]
        found = verdict.decide(leads, reasons)
        judged += [Judged(metric, *pair, one) for pair, one in zip(pairs, found, strict=True)]
    return judged


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
    head = ("ordering", "on", "lead (95 % over prompts)", "d", "p over prompts", "p over training seeds", "p, Holm", "")
    rows = []
    for one in judged:
        found = one.finding
        why = f"**{found.verdict}**" + (f" ({found.reason})" if found.reason else "")
        cells = [f"{one.more} > {one.less}", one.metric, effect(one.metric, found.lead), _number(found.lead.d)]
        cells += [_number(found.lead.over_prompts), _number(found.lead.over_seeds), _number(found.adjusted), why]
        rows.append(cells)
    return grid(head, rows) + "\n"


def effect(metric: str, lead: Lead) -> str:
    """A lead in the metric's own terms: a difference, for flow a ratio of geometric means."""
    bounds = [lead.mean] + ([lead.interval.low, lead.interval.high] if lead.interval else [])
    shown = [f"x {math.exp(b):.3f}" if metric in RATIOS else f"{b:+.4f}" for b in bounds]
    return shown[0] + (f" ({shown[1]} to {shown[2]})" if len(shown) == 3 else "")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def settings(done: Sequence[Done], work: Work) -> str:
    """How to read it, and what was run."""
    students = {s.name: s for d in done for row in d.students.values() for s in row}
    swept = "given" if work.rate is not None else "chosen in [sweep.md](sweep.md)"
    rate = {s.variant.method: s.lr for s in students.values()}
    near, far = 100 * verdict.WITHIN, 100 * verdict.OF_BASE
    return f"""## How to read it

Lead: positive where the first has more, on the metric's own terms (similarity: less of it; flow: a ratio). d: the mean
lead over its standard deviation between prompts. An ordering holds where both a test over prompts (sign flip, training
seeds averaged) and one over training seeds (Student's, prompts averaged) show it, the larger p adjusted by Holm over
the metric's orderings; it does not hold where they show the reverse; else it is undecided. Diversity and motion are
compared at equal fidelity alone: within {near:.0f} points of each other, and within {far:.0f} of the base.

## What was run

Every student has the same budget: generator steps, fits of F, batch. Learning rates: {swept}
({", ".join(f"{method} {lr:g}" for method, lr in rate.items())}).

{chr(10).join(f"    {s.command(work)}" for s in students.values())}
"""


def plain(one: Judged) -> dict[str, Any]:
    """An ordering for JSON: `p` is the larger of the two, adjusted."""
    found = one.finding
    named = {"ordering": f"{one.more} > {one.less}", "on": one.metric, "verdict": found.verdict, "why": found.reason}
    return named | {"p": found.adjusted, "lead": asdict(found.lead)}


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
        "n_prompts": done.prompts,
        "orderings": [plain(one) for one in done.judged],
        "rows": {label: row(label) for label in done.sides},
    }
