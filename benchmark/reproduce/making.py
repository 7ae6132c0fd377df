"""A table made: its students trained and measured, its parts judged, NAME.json, NAME.md and pictures written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pdmd.errors import UserError
from pdmd.files import write_text

from .. import provenance
from .draw import draw
from .measure import is_kept, measured, metrics_of
from .sweep import rates
from .table import BASE, Done, Part, Table, judge
from .work import Student, Work, there, train
from .writing import as_json, section, settings


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
