"""The paper's tables (Phased DMD, arXiv 2510.27684): 4-step students against a base of 40 steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DIVERSITY = ("dinov3_similarity", "lpips")
MOTION = ("optical_flow", "dynamic_degree")
CITATION = "Phased DMD, arXiv 2510.27684"


@dataclass(frozen=True)
class Row:
    """A method on a base model; values by metric, of `dynamic_degree` the share."""

    base: str
    method: str
    values: Mapping[str, float]


def _rows(of: str, names: tuple[str, str], **methods: tuple[float, float]) -> tuple[Row, ...]:
    titles = {
        "base": "base",
        "dmd": "DMD",
        "sgts": "DMD with SGTS",
        "phased": "Phased DMD",
        "v1": "Phased DMD (v1)",
        "v3": "Phased DMD (v3)",
    }
    return tuple(Row(of, titles[key], dict(zip(names, pair, strict=True))) for key, pair in methods.items())


#: Suite -> its rows, in the paper's order.
TABLES: dict[str, tuple[Row, ...]] = {
    "diversity": (
        *_rows(
            "Wan2.1-T2V-14B",
            DIVERSITY,
            base=(0.708, 0.607),
            dmd=(0.825, 0.522),
            sgts=(0.826, 0.521),
            phased=(0.782, 0.544),
        ),
        *_rows("Wan2.2-T2V-A14B", DIVERSITY, base=(0.732, 0.531), sgts=(0.828, 0.447), phased=(0.768, 0.481)),
        *_rows("Qwen-Image", DIVERSITY, base=(0.907, 0.483), sgts=(0.941, 0.309), phased=(0.958, 0.322)),
    ),
    "motion": _rows(
        "Wan2.2 text to video",
        MOTION,
        base=(10.26, 0.7955),
        sgts=(3.23, 0.6545),
        v1=(7.57, 0.7455),
        v3=(9.30, 0.8227),
    ),
    "motion-i2v": _rows(
        "Wan2.2 image to video", MOTION, base=(9.32, 0.8227), sgts=(7.87, 0.8000), phased=(9.84, 0.8364)
    ),
}
NOTES = {
    "diversity": "21 prompts of the paper's own, 8 seeds each.",
    "motion": "220 prompts of the paper's own, one seed each. The paper has its flow from UniMatch, optical_flow is "
    "RAFT's: set the two side by side with that in mind.",
}
