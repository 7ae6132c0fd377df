"""Results that travel without their students: OUT/results/SAMPLES/NAME, small enough to be committed.

A reproduction takes longer than a machine may be had for; its students and samples are hundreds of megabytes, its
results kilobytes. A student whose results are kept, of the same teacher and the same settings, is not trained again.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from pdmd.config import Config
from pdmd.errors import UserError
from pdmd.files import SUMS, changed, parse_json, whole_folder, write_sums
from pdmd.media import inside

from ..sides import BESIDE, Side, read_side
from ..suites import PromptSet, same_prompts
from .draw import drawn
from .work import Student, Work, teacher_sha256

STUDENT = "student.json"


def folder(work: Work, samples: str, student: Student) -> Path:
    return work.out / "results" / samples / student.name


def settings(work: Work, student: Student) -> dict[str, object]:
    """Every setting of a student's training, as JSON gives it back."""
    found: dict[str, object] = json.loads(json.dumps(dataclasses.asdict(student.config(work))))
    return found


def with_defaults(kept: dict[str, Any]) -> dict[str, Any]:
    """A record, its settings with the defaults of those that have come since."""
    return kept | {"settings": json.loads(json.dumps(dataclasses.asdict(Config()))) | kept["settings"]}


def record(work: Work, student: Student) -> dict[str, object]:
    """What a student is: its teacher and every setting of its training."""
    return {"teacher_sha256": teacher_sha256(student.teacher), "settings": settings(work, student)}


def keep(work: Work, samples: str, student: Student, side: Side) -> None:
    """Copy a student's result, and of its samples those that pictures are made of, whole or not at all."""
    target = folder(work, samples, student)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    with whole_folder(target) as part:
        for path in (inside(side.path.parent, name) for name in ("result.json", *BESIDE, *drawn(side))):
            if path.is_file():
                copy = part / path.relative_to(side.path.parent)
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, copy)
        (part / STUDENT).write_text(json.dumps(record(work, student), indent=1) + "\n")
        write_sums(part / SUMS)


def find(work: Work, samples: str, student: Student, prompts: PromptSet) -> Side | None:
    """The kept result of a student over these prompts; None where there is none of this teacher and these settings.
    Raises UserError where a file of it was changed."""
    place = folder(work, samples, student)
    if not (place / SUMS).is_file():
        return None
    if bad := changed(place / SUMS):
        raise UserError(f"{bad} is not as it was written; delete {place} to measure the student again")
    side = read_side(place)
    same = with_defaults(parse_json((place / STUDENT).read_bytes())) == record(work, student)
    return side if same and same_prompts(side.result.generation, prompts) else None
