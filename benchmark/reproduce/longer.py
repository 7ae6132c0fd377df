"""Twice the generator steps: whether what SGTS costs grows with training, and whether what a phase costs does. Each
of the two experts then has the steps that sgts' one network has at the plain budget, so these are compared as well."""

from __future__ import annotations

from .table import BASE, Table, images_and_clips
from .work import PHASED, SGTS, Variant

STEPS = 960
ROWS = {
    "sgts": SGTS,
    "sgts, 2 x": Variant("sgts-longer", "sgts", (f"generator_steps={STEPS}",), after=SGTS),
    "phased": PHASED,
    "phased, 2 x": Variant("phased-twice", "phased", (f"generator_steps={STEPS}",)),
}

TABLE = Table(
    "longer",
    "Twice the training",
    parts=images_and_clips(
        ROWS,
        (
            ("phased, 2 x", "sgts, 2 x"),
            ("phased, 2 x", "sgts"),
            ("sgts", "sgts, 2 x"),
            ("phased", "phased, 2 x"),
            (BASE, "phased, 2 x"),
        ),
    ),
    note=(
        "The same learning rates; twice the generator steps and fits of F, for both methods. Phased shares its steps "
        "out among two experts, so at 2 x each of them has as many as sgts has at 1 x."
    ),
)
