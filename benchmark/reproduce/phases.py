"""How many phases share the four steps, and after which of them the first of two ends."""

from __future__ import annotations

from . import decided
from .table import Table, images_and_clips
from .work import PHASED, SGTS, Variant

#: One phase with random stops is sgts, to the last bit.
COUNT = {"1 phase": SGTS, "2 phases": PHASED, "4 phases": Variant("phased-4", "phased", ("phases=4",))}
MORE = (("2 phases", "1 phase"), ("4 phases", "2 phases"))
BOUNDARY = {
    "after step 1": Variant("phased-first1", "phased", ("boundary=1",)),
    "after step 2": PHASED,
    "after step 3": Variant("phased-first3", "phased", ("boundary=3",)),
}
SWEPT = (("after step 1", "after step 2"), ("after step 3", "after step 2"))

TABLE = Table(
    "phases",
    "One, two and four phases, and where the boundary lies",
    parts=(
        *images_and_clips(COUNT, MORE, of="Phases"),
        *images_and_clips(BOUNDARY, SWEPT, worse=SWEPT, seeds=1, of="Boundary"),
    ),
    note=(
        "All phases share one budget of generator steps. The paper leaves the boundary open; its sweep has one "
        "training seed, so it decides nothing, and says where to look."
    ),
    more=decided.more,
)
