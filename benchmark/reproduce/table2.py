"""Diversity, the paper's Table 2: 21 prompts x 8 seeds, as images and as clips."""

from __future__ import annotations

from .table import BASE, DIVERSITY, Part, Table
from .work import DMD, FEW_STEP, PHASED, SGTS

ROWS = {"dmd": DMD, "few-step": FEW_STEP, "sgts": SGTS, "phased": PHASED}
PAPER = (("phased", "sgts"), ("phased", "dmd"), (BASE, "phased"), (BASE, "sgts"), (BASE, "dmd"))

TABLE = Table(
    "table2",
    "Diversity: what the seeds of a prompt still show",
    parts=(
        Part("Text to image", "images", ROWS, DIVERSITY, PAPER),
        Part("Text to video", "clips", ROWS, DIVERSITY, PAPER),
    ),
    note="The paper's orderings: phased is more diverse than sgts and dmd, and the base than all.",
)
