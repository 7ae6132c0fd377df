"""A table as data, and its orderings judged. making.py makes it, writing.py writes it."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..sides import Side
from . import verdict
from .measure import Values, differences, mean, values
from .verdict import Finding
from .work import Student, Variant, Work

BASE = "base"
DIVERSITY = ("dinov3_similarity", "lpips", "sprites_similarity", "sprites_distance", "factor_diversity")
MOTION = ("optical_flow", "dynamic_degree", "optical_flow_dis", "dynamic_degree_dis", "flow_read")


@dataclass(frozen=True)
class Part:
    """One comparison: `rows` by label, the base model's beside them; `metrics` on which each of `orderings` (the first
    leads the second) is judged at equal fidelity; `worse`: pairs whose second is to have the lower fidelity. `seeds`
    are training seeds, `looks` how often they were judged as more were trained (see `decide`); with `i2v` all is of the
    image-to-video teacher, with `media` the samples are looked at too."""

    title: str
    samples: str
    rows: Mapping[str, Variant]
    metrics: tuple[str, ...]
    orderings: tuple[tuple[str, str], ...] = ()
    worse: tuple[tuple[str, str], ...] = ()
    seeds: int = 3
    looks: int = 1
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
        found = verdict.decide(leads, reasons, part.looks)
        judged += [Judged(metric, *pair, one) for pair, one in zip(pairs, found, strict=True)]
    return judged
