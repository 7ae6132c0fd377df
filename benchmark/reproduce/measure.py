"""Models through the suites: results that are there and whole are kept; values by training seed and prompt."""

from __future__ import annotations

import json
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pdmd.errors import UserError
from pdmd.files import without_path
from pdmd.sample import Guided, Model, load_model
from pdmd.teachers import load_teacher

from .. import sides
from ..paired import RATIO, Scale, scale_of
from ..result import kind, load
from ..run import run_suite
from ..sides import Side, read_side, refuse
from ..suites import PromptSet, get_suite, load_prompts, same_prompts
from . import kept
from .work import WAIT, Student, Work, base, busy

#: Of the embedded world's reader, in items.csv: the mean flow of what it sees, pixels a frame. It has no value for a
#: clip in which no objects are legible.
FLOW_READ = "flow_read"


@dataclass(frozen=True)
class Samples:
    """What is made of every prompt: a suite, its images or clips."""

    suite: str
    clips: bool = False


SAMPLES = {
    "images": Samples("diversity"),
    "clips": Samples("diversity", clips=True),
    "motion": Samples("motion"),
    "motion-i2v": Samples("motion-i2v"),
}


def asked(work: Work, key: str, prompts: Path | None = None) -> PromptSet:
    """The prompts that each model gets."""
    found = load_prompts(get_suite(SAMPLES[key].suite), "sprites", prompts)
    return replace(found, prompts=found.prompts[: work.limit])


def is_kept(work: Work, key: str, student: Student, prompts: Path | None = None, folder: str = "") -> bool:
    """Whether a student's result is kept, so that it need not be trained; arguments as of `measured`."""
    return kept.find(work, folder or key, student, asked(work, key, prompts)) is not None


def measured(
    work: Work,
    key: str,
    teacher: str,
    students: Sequence[Student],
    prompts: Path | None = None,
    folder: str = "",
    media: bool = False,
) -> dict[str, Side]:
    """The results of the base model, under "base", and of the students, by name: those that are kept, unless the
    samples themselves are wanted (`media`), and those in runs/bench/KEY (or `folder`), which are then kept."""
    samples, first, of = folder or key, base(work, teacher), asked(work, key, prompts)
    found = {s.name: side for s in students if (side := kept.find(work, samples, s, of))}
    here = [s for s in dict.fromkeys(students) if media or s.name not in found]
    made = _made(work, key, first, [load_model(str(s.folder(work))) for s in here], prompts, samples)
    for student in here:
        if student.name not in found:
            kept.keep(work, samples, student, made[student.name])
        found[student.name] = made[student.name]
    for side in found.values():
        refuse(made[first.name], side)  # of another machine, it may be by another version of an estimator
    return {"base": made[first.name], **found}


def at_guidance(work: Work, key: str, teacher: str, weights: Sequence[float]) -> list[Side]:
    """The results of the base model at other guidance weights w."""
    models = [Guided(load_teacher(teacher, w)) for w in weights]
    for model, w in zip(models, weights, strict=True):
        model.name += f"-w{w:g}"
    made = _made(work, key, base(work, teacher), models, None, key)
    return [made[model.name] for model in models]


def _made(
    work: Work, key: str, first: Model, others: Sequence[Model], prompts: Path | None, folder: str
) -> dict[str, Side]:
    """Results of the base model `first` and of others, by name, made where they are not there."""
    what, out, of = SAMPLES[key], work.runs / "bench" / folder, asked(work, key, prompts)
    models = [first, *others]
    while stale := [model for model in models if not _whole(out / model.name / "result.json", model, of)]:
        run = [first, *(model for model in stale if model is not first)]
        if any(busy(out / model.name) for model in run):
            time.sleep(WAIT)  # another process measures them
            continue
        print(f"{out}: {', '.join(model.name for model in stale)}", flush=True)
        run_suite(get_suite(what.suite), run, out, prompts=prompts, limit=work.limit, clips=what.clips, batch_size=16)
    return {model.name: read_side(out / model.name) for model in models}


def _whole(path: Path, model: Model, prompts: PromptSet) -> bool:
    """Whether a result is of this very model and these prompts."""
    try:
        made = load(path).generation
    except UserError:
        return False
    wanted = json.loads(json.dumps({"name": model.name, "domain": model.domain, **without_path(model.identity)}))
    return without_path(made.get("model", {})) == wanted and same_prompts(made, prompts)


#: Values of one metric by prompt id, one mapping a training seed.
Values = Sequence[Mapping[str, float]]


def values(of: Sequence[Side], metric: str, ids: Container[str] | None = None) -> Values:
    """A row's values of a metric, of all prompts or these. Raises UserError where a prompt has none: no seed and no
    prompt is left out, but of FLOW_READ, which only what is legible has."""
    found = [sides.values(side, metric) for side in of]
    for side, one in zip(of, found, strict=True):
        if one.problems and metric != FLOW_READ:
            raise UserError(f"{side.path}: {metric} of {next(iter(one.problems.values()))}; run the command again")
    return [{key: x for key, x in one.means.items() if ids is None or key in ids} for one in found]


def metrics_of(of: Mapping[str, Sequence[Side]], wanted: Sequence[str]) -> list[str]:
    """Of the wanted metrics, in this order, those that every result has."""

    def has(side: Side, metric: str) -> bool:
        return metric in side.items[0] if metric == FLOW_READ else side.result.metric(metric) is not None

    return [m for m in wanted if all(has(side, m) for row in of.values() for side in row)]


def differences(metric: str, more: Values, less: Values) -> np.ndarray:
    """By how much the first row leads, on the metric's scale (flow: logarithms), (training seeds, prompts) over the
    prompts that both have in all seeds; a row of one seed stands beside each of the other's."""
    first, second = aligned(more, less)
    if metric == FLOW_READ:
        return RATIO.drops(first, second)
    scale: Scale = scale_of(metric, first.ravel(), second.ravel())
    return scale.drops(*((first, second) if kind(metric).direction == "higher" else (second, first)))


def aligned(more: Values, less: Values) -> tuple[np.ndarray, np.ndarray]:
    """Two rows' values over the prompts that both have in all seeds, (training seeds, prompts) each."""
    ids = [key for key in more[0] if all(key in one for one in (*more, *less))]
    first, second = (np.array([[one[key] for key in ids] for one in row]) for row in (more, less))
    shape = np.broadcast_shapes(first.shape, second.shape)
    return np.broadcast_to(first, shape), np.broadcast_to(second, shape)


def mean(row: Values) -> float:
    """Over training seeds and prompts."""
    return float(np.mean([np.mean(list(one.values())) for one in row]))


def one_number(of: Sequence[Side], metric: str) -> list[float | None]:
    """A metric of each result as a whole, None where it has none."""
    return [found.value if (found := side.result.metric(metric)) else None for side in of]


def facts(side: Side) -> dict[str, Any]:
    """What a table says of each of its results."""
    made, origin = side.result.generation, side.result.provenance
    return {
        "model": made["model"],
        "prompts": made["prompts"],
        "seeds": made["suite"]["seeds"],
        "made": origin.get("created"),
        "git": origin.get("git"),
    }
