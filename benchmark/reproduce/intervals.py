"""t drawn from nested intervals (t_k, 1), or from disjoint ones (t_k, t_{k-1})."""

from __future__ import annotations

from .table import Table, images_and_clips
from .work import PHASED, Variant

ROWS = {"nested": PHASED, "disjoint": Variant("phased-disjoint", "phased", ("interval=disjoint",))}
PAIR = (("nested", "disjoint"),)

TABLE = Table(
    "intervals",
    "Nested against disjoint intervals",
    parts=images_and_clips(ROWS, PAIR, worse=PAIR),
    note="The paper finds artefacts with disjoint intervals: nested is to have the higher fidelity.",
)
