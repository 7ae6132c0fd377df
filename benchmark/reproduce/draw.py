"""The tables' pictures: the same prompts and the same noise, a row a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pdmd.files import write_whole
from pdmd.media import contact_sheet, inside, read_video

from ..sides import Side

PROMPTS = 2
STRIP = 5  # frames of a clip


def drawn(side: Side) -> list[str]:
    """The files of a result that a picture is made of."""
    ids = list(side.first("prompt"))[:PROMPTS]
    return [row["file"] for row in side.items if row["id"] in ids]


def draw(path: Path, rows: Mapping[str, Side]) -> None:
    """The first prompts of each model's result: of one with several seeds a prompt the middle frame of each, else
    STRIP frames of the clip."""
    first = next(iter(rows.values()))
    texts = first.first("prompt")
    ids = list(texts)[:PROMPTS]
    figure = Figure(figsize=(7 * len(ids), 0.9 * len(rows) + 0.4), dpi=110, layout="constrained")
    axes = figure.subplots(len(rows), len(ids), squeeze=False)
    for line, (label, side) in zip(axes, rows.items(), strict=True):
        for axis, key in zip(line, ids, strict=True):
            axis.imshow(_strip(side, key), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=11)
    for axis, key in zip(axes[0], ids, strict=True):
        axis.set_title(texts[key], fontsize=11, parse_math=False)
    write_whole(path, lambda part: figure.savefig(part))


def _strip(side: Side, key: str) -> np.ndarray:
    clips = [read_video(inside(side.path.parent, row["file"])).frames for row in side.items if row["id"] == key]
    if len(clips) > 1:
        return contact_sheet([np.stack([clip[len(clip) // 2] for clip in clips])], columns=len(clips))
    return contact_sheet(clips, columns=STRIP)
