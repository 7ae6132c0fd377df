"""F's target within a subinterval: the exact one, or the naive one of eps - x_s."""

from __future__ import annotations

from .table import Table, images_and_clips
from .work import PHASED, Variant

ROWS = {"exact": PHASED, "naive": Variant("phased-naive", "phased", ("target=naive",))}
PAIR = (("exact", "naive"),)

TABLE = Table(
    "target",
    "The exact against the naive target",
    parts=images_and_clips(ROWS, PAIR, worse=PAIR),
    note=(
        "The naive target is wrong wherever a phase ends above t = 0 (figure2 shows it in one dimension): exact is to "
        "have the higher fidelity."
    ),
)
