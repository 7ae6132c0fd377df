"""Motion, the paper's Table 3: 220 prompts of text to video, 220 pairs of image to video."""

from __future__ import annotations

from .table import BASE, MOTION, Part, Table
from .work import DMD, PHASED, SGTS

ROWS = {"dmd": DMD, "sgts": SGTS, "phased": PHASED}

TABLE = Table(
    "table3",
    "Motion: how much of it is left",
    parts=(
        Part(
            "Text to video",
            "motion",
            ROWS,
            MOTION,
            (("phased", "sgts"), (BASE, "phased"), (BASE, "sgts"), (BASE, "dmd")),
        ),
        Part("Image to video", "motion-i2v", ROWS, MOTION, (("phased", "sgts"), (BASE, "sgts")), i2v=True),
    ),
    note=(
        "The paper's orderings: phased has more motion than sgts, and the base of text to video than all. `flow_read` "
        "is the true flow as the embedded world's reader sees it, the objects' speed times their share of the frame; "
        "those in `_dis` are estimated. Image to video takes the learning rates of text to video."
    ),
)
