"""How long it will take, said first: what is not there yet, at the costs of work.py."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..suites import get_suite
from . import sweep
from .measure import SAMPLES, asked
from .table import Table
from .work import MIXTURE_STEP, SAMPLE, STEP, Student, Work, there


@dataclass(frozen=True)
class Expected:
    """How many students and results are yet to be made, and their seconds on two quiet cores."""

    students: int
    results: int
    training: float
    measuring: float

    def __str__(self) -> str:
        minutes = (self.training + self.measuring) / 60
        whole = f"{minutes:.0f} minutes" if minutes < 100 else f"{minutes / 60:.1f} hours"
        return (
            f"{self.students} students to train ({self.training / 60:.0f} min) and {self.results} results to make "
            f"({self.measuring / 60:.0f} min): about {whole} on two quiet cores"
        )


def expected(work: Work, tables: Iterable[Table], apart: Iterable[Student] = ()) -> Expected:
    """Of these tables together, less what is finished, and of students of the mixture, `apart`. A learning rate yet to
    be chosen is any."""
    training = {s.name: seconds(work, s) for s in apart}  # a folder's pattern below runs/students -> seconds
    measuring: dict[str, float] = {}  # below runs/bench

    def is_kept(key: str, pattern: str) -> bool:
        return any(work.out.glob(f"results/{key}/{pattern}/result.json"))

    def need(key: str, pattern: str, own: float | None, measuring_seconds: float, media: bool = False) -> None:
        if media or not is_kept(key, pattern):
            if own is not None:  # None: the sweep trains it
                training[pattern] = own
            measuring[f"{key}/{pattern}"] = measuring_seconds

    for table in tables:
        for part in (part for part in table.parts if there(part.teacher(work))):
            teacher, n = part.teacher(work), samples(work, part.samples)
            of_student, of_base = SAMPLE[part.samples]
            measuring[f"{part.samples}/{Path(teacher).name}"] = n * of_base
            rate = dict.fromkeys(table.methods, sweep.RATES[0])
            for student in (s for row in part.students(work, rate).values() for s in row):
                pattern = student.name.replace(f"lr{student.lr:g}", "lr*")
                rates = sweep.students(work, student.variant.method) if work.rate is None else []
                swept = student in rates and not any(is_kept("sweep", s.name) for s in rates)
                cost = None if swept else seconds(work, student)
                need(part.samples, pattern, cost, n * of_student, part.media)
        if work.rate is None:
            n = min(sweep.PROMPTS, work.limit or sweep.PROMPTS) * len(get_suite("diversity").seeds)
            measuring[f"sweep/{Path(work.teacher).name}"] = n * SAMPLE["clips"][1]
            for student in (s for method in table.methods for s in sweep.students(work, method)):
                need("sweep", student.name, seconds(work, student), n * SAMPLE["clips"][0])
    students = [s for p, s in training.items() if not any(work.runs.glob(f"students/{p}/student/student.json"))]
    results = [s for p, s in measuring.items() if not any(work.runs.glob(f"bench/{p}/result.json"))]
    return Expected(len(students), len(results), sum(students), sum(results))


def samples(work: Work, key: str) -> int:
    """How many samples of a kind each model makes."""
    return len(asked(work, key).prompts) * len(get_suite(SAMPLES[key].suite).seeds)


def seconds(work: Work, student: Student) -> float:
    """Of its training, less what a shorter student has done of it."""
    step = MIXTURE_STEP if student.teacher == "mixture" else STEP[student.variant.method]
    done = student.shorter.config(work).generator_steps if student.shorter else 0
    return step * (student.config(work).generator_steps - done)
