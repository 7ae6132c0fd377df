"""Where the teacher's score is exact: what is left of the weights of a mixture's 16 modes, by method, and what it is
that costs them. Students train in seconds, so every question has five training seeds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from pdmd.errors import UserError
from pdmd.files import parse_json, write_text, write_whole
from pdmd.sample import Guided, Model, load_model
from pdmd.sample import Student as StudentModel
from pdmd.teachers.mixture import WEIGHTS, Mixture, Modes

from .. import provenance
from ..report import grid
from .intervals import FOUR
from .intervals import ROWS as INTERVALS
from .kept import settings, with_defaults
from .phases import BOUNDARY, COUNT
from .table import BASE
from .target import ROWS as TARGETS
from .verdict import ratios
from .work import DMD, FEW_STEP, PHASED, SGTS, Student, Variant, Work, train
from .writing import number

NAME, TITLE = "modes", "Coverage: what is left of the modes' weights where the score is exact"
SEEDS, SAMPLES, LR = 5, 8192, 5e-4
ROWS = {
    "dmd": DMD,
    "few-step": FEW_STEP,
    "sgts": SGTS,
    "phased": PHASED,
    "4 phases": COUNT["4 phases"],
    "no SGTS inside": Variant("phased-whole", "phased", ("sgts=false",)),
    "after step 1": BOUNDARY["after step 1"],
    "after step 1, no SGTS": Variant("phased-first1-whole", "phased", ("boundary=1", "sgts=false")),
    "after step 3": BOUNDARY["after step 3"],
    "naive": TARGETS["naive"],
    "disjoint": INTERVALS["disjoint"],
    "4 phases, disjoint": FOUR["disjoint"],
    "sgts, 16 fits": Variant("sgts-fits16", "sgts", ("fits=16",)),
    "sgts, 4 x": Variant("sgts-1600", "sgts", ("generator_steps=1600",)),
    "phased, 4 x": Variant("phased-1600", "phased", ("generator_steps=1600",)),
}
#: The first is to keep more of the weights than the second, a smaller TV: the paper's, then those that say why.
PAPER = (
    *(("phased", other) for other in ("sgts", "dmd", "naive", "disjoint")),
    *((BASE, other) for other in ("phased", "sgts", "dmd")),
)
WHY = (
    ("few-step", "sgts"),
    ("phased", "4 phases"),
    ("no SGTS inside", "phased"),
    ("phased", "after step 1"),
    ("after step 1, no SGTS", "after step 1"),
    ("phased", "after step 3"),
    ("sgts, 16 fits", "sgts"),
    ("sgts", "sgts, 4 x"),
    ("phased", "phased, 4 x"),
    ("phased, 4 x", "sgts, 4 x"),
)
#: A question that came up when the others were answered.
LATER = (("4 phases", "4 phases, disjoint"),)
DRAWN = (BASE, "dmd", "few-step", "sgts", "phased", "sgts, 4 x", "phased, 4 x")


def students(work: Work) -> dict[str, list[Student]]:
    """Each row's, one a training seed."""
    return {label: [Student(row, "mixture", LR, seed) for seed in work.seeds_of(SEEDS)] for label, row in ROWS.items()}


def left(work: Work) -> list[Student]:
    """Those of which nothing is kept."""
    return [s for row in students(work).values() for s in row if kept(work, s) is None]


def make(work: Work) -> Path:
    """Train what is not kept, measure, judge; the path of modes.md."""
    rows = students(work)
    if lost := train(work, left(work), partial(result, work)):
        raise UserError(f"{', '.join(lost)}: {next(iter(lost.values()))}")
    found = {BASE: [measure(Guided(Mixture()))]}
    found |= {label: [result(work, s) for s in row] for label, row in rows.items()}
    families = {"The paper's orderings": PAPER, "What it hangs on": WHY, "Asked when these were answered": LATER}
    tv = {label: [m.weights_tv for m in row] for label, row in found.items()}
    judged = {title: ratios(tv, pairs, "modes' weights", less=True) for title, pairs in families.items()}
    path = work.out / f"{NAME}.md"
    write_whole(path.with_suffix(".png"), lambda part: draw(found, part))
    write_text(path, text(work, found, judged))
    content: dict[str, Any] = {"title": TITLE, "command": work.command, "provenance": provenance.record()}
    content |= {"seeds": list(work.seeds_of(SEEDS)), "n": SAMPLES, "weights": WEIGHTS}
    content |= {"rows": {label: [dataclasses.asdict(m) for m in row] for label, row in found.items()}}
    content |= {"judged": [one for family in judged.values() for one in family]}
    write_text(path.with_suffix(".json"), json.dumps(content, indent=1) + "\n")
    return path


def measure(model: Model) -> Modes:
    """What samples of the model, one noise for all models, kept of the modes."""
    assert isinstance(model, Guided | StudentModel)
    assert isinstance(model.teacher, Mixture)
    with torch.no_grad():
        return model.teacher.measure(model.latents([""] * SAMPLES, range(SAMPLES), None))


def place(work: Work, student: Student) -> Path:
    return work.out / "results" / NAME / f"{student.name}.json"


def result(work: Work, student: Student) -> Modes:
    """What was found of a student: as it is kept, or measured now, and written down beside its settings."""
    if there := kept(work, student):
        return there
    modes = measure(load_model(str(student.folder(work))))
    content = {"settings": settings(work, student), "modes": dataclasses.asdict(modes)}
    write_text(place(work, student), json.dumps(content, indent=1) + "\n")
    return modes


def kept(work: Work, student: Student) -> Modes | None:
    """What was found of a student of these settings, on whatever machine."""
    if not (path := place(work, student)).is_file():
        return None
    content = with_defaults(parse_json(path.read_bytes()))
    if content["settings"] != settings(work, student):
        return None
    return Modes(**content["modes"] | {"shares": tuple(content["modes"]["shares"])})


def draw(found: Mapping[str, Sequence[Modes]], to: Path) -> None:
    """The lattice of modes, a panel a row: each mode's share over its weight, training seeds averaged."""
    figure = Figure(figsize=(1.75 * len(DRAWN) + 0.9, 2.3), dpi=150, layout="constrained")
    axes = figure.subplots(1, len(DRAWN))
    side = round(len(WEIGHTS) ** 0.5)
    for axis, label in zip(axes, DRAWN, strict=True):
        row = found[label]
        share = np.mean([m.shares for m in row], 0) / (np.array(WEIGHTS) / sum(WEIGHTS))
        image = axis.imshow(np.log2(np.maximum(share, 1 / 16)).reshape(side, side).T, "RdBu_r", vmin=-2, vmax=2)
        axis.set(xticks=[], yticks=[], xlabel=f"TV {np.mean([m.weights_tv for m in row]):.2f}", title=label)
    ticks = (-2, -1, 0, 1, 2)
    bar = figure.colorbar(image, ax=axes, ticks=ticks, fraction=0.02)
    bar.ax.set_yticklabels([f"x {2.0**tick:g}" for tick in ticks])
    figure.savefig(to)


def text(
    work: Work,
    found: Mapping[str, Sequence[Modes]],
    judged: Mapping[str, Sequence[Mapping[str, Any]]],
) -> str:
    """The numbers as Markdown, and what was judged, by title of its family."""

    def cell(values: Sequence[float]) -> str:
        each = f" ({', '.join(f'{v:.3f}' for v in values)})" if len(values) > 1 else ""
        return f"{np.mean(values):.3f}{each}"

    def table(family: Sequence[Mapping[str, Any]]) -> str:
        rows = [(one["ordering"], f"x {one['ratio']:.2f}", number(one["p"]), f"**{one['verdict']}**") for one in family]
        return grid(("keeps more", "TV of the second over the first's", "p, Holm", ""), rows)

    tables = "\n\n".join(f"## {title}\n\n{table(family)}" for title, family in judged.items())
    lines = [(label, cell([m.weights_tv for m in r]), cell([m.spread for m in r])) for label, r in found.items()]
    return f"""# {TITLE}

`{work.command}`, commit {provenance.commit_text()}.

The teacher is a Gaussian mixture in the plane, its velocity in closed form, without guidance; students are small MLPs.

![each mode's share of the samples, over its weight]({NAME}.png)

{grid(("", "TV of the modes' weights", "spread within a mode / true"), lines)}

TV: total variation between the modes' shares of {SAMPLES} samples and their weights, 0 to 1, mean over training seeds
{", ".join(map(str, work.seeds_of(SEEDS)))} (in brackets each one's own); the base model's is what so many samples by 40
steps give. Drawn: each mode's share over its weight.

{tables}

Student's test of log TV, paired by training seed; p adjusted by Holm over each table. "no SGTS inside":
every batch runs the whole phase. "after step k": the first of the two phases ends there ("phased": after step 2).
"4 x": four times the generator steps. All else is equal: the recipe's budget, learning rate {LR:g}, F's twice that.

{chr(10).join(f"    {row[0].command(work)}" for row in students(work).values())}
"""
