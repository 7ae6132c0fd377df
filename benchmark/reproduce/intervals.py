"""t drawn from nested intervals (t_k, 1), or from disjoint ones (t_k, t_{k-1})."""

from __future__ import annotations

from .phases import COUNT
from .table import Table, images_and_clips
from .work import PHASED, Variant

ROWS = {"nested": PHASED, "disjoint": Variant("phased-disjoint", "phased", ("interval=disjoint",))}
FOUR = {
    "nested": COUNT["4 phases"],
    "disjoint": Variant("phased-4-disjoint", "phased", ("phases=4", "interval=disjoint")),
}
PAIR = (("nested", "disjoint"),)

TABLE = Table(
    "intervals",
    "Nested against disjoint intervals",
    parts=(
        *images_and_clips(ROWS, PAIR, worse=PAIR, of="Two phases"),
        *images_and_clips(FOUR, PAIR, worse=PAIR, of="Four phases"),
    ),
    note=(
        "The paper finds artefacts with disjoint intervals: nested is to have the higher fidelity. The first phase has "
        "the same interval either way, so of two phases one differs, and of four three do."
    ),
)
