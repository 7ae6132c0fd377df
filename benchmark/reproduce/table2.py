"""Diversity, the paper's Table 2: 21 prompts x 8 seeds, as images and as clips; beside it the base at less guidance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .measure import at_guidance, mean, values
from .table import BASE, DIVERSITY, Done, Part, Table
from .work import DMD, FEW_STEP, PHASED, SGTS, Work
from .writing import figures

ROWS = {"dmd": DMD, "few-step": FEW_STEP, "sgts": SGTS, "phased": PHASED}
PAPER = (("phased", "sgts"), ("phased", "dmd"), (BASE, "phased"), (BASE, "sgts"), (BASE, "dmd"))
WEIGHTS = (1.0, 2.0)


def more(done: Sequence[Done], work: Work) -> tuple[str, dict[str, Any]]:
    """The base by its guidance weight w: guidance narrows too, and a student begins as the network at w = 1."""
    texts, found = [], {}
    for one in done:
        sides = at_guidance(work, one.part.samples, one.part.teacher(work), WEIGHTS)
        rows = {f"w = {w:g}": [side] for w, side in zip(WEIGHTS, sides, strict=True)} | {"its own w": one.sides[BASE]}
        columns = ["fidelity", *one.metrics]
        texts.append(f"## {one.part.title}: the base by its guidance\n\n{figures(rows, columns)}\n")
        found[one.part.title] = {label: {m: mean(values(row, m)) for m in columns} for label, row in rows.items()}
    return "\n".join(texts), {"base_by_guidance": found}


TABLE = Table(
    "table2",
    "Diversity: what the seeds of a prompt still show",
    parts=(
        Part("Text to image", "images", ROWS, DIVERSITY, PAPER),
        Part("Text to video", "clips", ROWS, DIVERSITY, PAPER),
    ),
    note="The paper's orderings: phased is more diverse than sgts and dmd, and the base than all.",
    more=more,
)
