"""The report's pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

from pdmd.errors import UserError
from pdmd.files import write_whole
from pdmd.media import contact_sheet, inside, read_video

from .markup import visible
from .result import kind
from .score import Item, PromptScore

CLIPS = 8
STRIP = 5  # frames of each clip
PROMPTS = 6
CELL, GAP = 128, 8  # pixels: an image's height in a grid, the space between two
MARGIN = -270  # pixels; where the arrow runs, left of the words
FAINT = "0.45"  # grey of what is not the point


def draw_clips(path: Path, folder: Path, items: Sequence[Item], flow_name: str) -> None:
    """A picture of up to CLIPS clips, from least to most flow, STRIP frames each beside their prompt."""
    ranked = sorted((i for i in items if flow_name in i.values), key=lambda item: item.values[flow_name])
    if not ranked:
        return
    picked = [ranked[i] for i in sorted(set(np.linspace(0, len(ranked) - 1, CLIPS).round().astype(int)))]
    figure = Figure(figsize=(9, 1.25 * len(picked)), dpi=110, layout="constrained")
    axes = np.ravel(figure.subplots(len(picked), 1))
    for axis, item in zip(axes, picked, strict=True):
        axis.set_axis_off()
        try:
            axis.imshow(contact_sheet([read_video(inside(folder, item.file)).frames], STRIP), interpolation="nearest")
        except UserError:
            continue
        facts = f"flow {item.values[flow_name]:.2f} px a frame" + (
            f", fidelity {item.values['fidelity']:.2f}" if "fidelity" in item.values else ""
        )
        words = f"{_wrapped(item.prompt)}\n{item.id}, seed {item.seed}: {facts}"
        axis.text(1.02, 0.5, words, transform=axis.transAxes, va="center", fontsize=9, parse_math=False)
    write_whole(path, lambda part: figure.savefig(part, bbox_inches="tight"))


def draw_flow(path: Path, flows: Sequence[float], unit: str) -> None:
    """A histogram of the clips' flow."""
    figure = Figure(figsize=(6, 2.5), dpi=110, layout="constrained")
    axis = figure.subplots()
    axis.hist(flows, bins=30)
    axis.set(xlabel=f"mean flow of a clip, {unit}", ylabel="clips")
    write_whole(path, lambda part: figure.savefig(part))


def draw_seeds(path: Path, folder: Path, prompts: Sequence[PromptScore], by: str | None) -> bool:
    """A grid of up to PROMPTS prompts, from least to most diverse by the metric `by`, a row each with the
    images of all its seeds; in the prompts' order where there is no metric. False where there is no image."""
    ranked = [p for p in prompts if by is None or by in p.values]
    if by:
        sign = 1 if kind(by).direction == "higher" else -1
        ranked.sort(key=lambda p: sign * p.values[by])
    ranked = [p for p in ranked if any(item.frames for item in p.items)]
    if not ranked:
        return False
    picked = [ranked[i] for i in sorted(set(np.linspace(0, len(ranked) - 1, PROMPTS).round().astype(int)))]
    rows = [np.concatenate([_cell(folder, item) for item in p.items], axis=1) for p in picked]
    width = max(row.shape[1] for row in rows)
    grid = np.concatenate([np.pad(r, ((0, 0), (0, width - r.shape[1]), (0, 0)), constant_values=255) for r in rows])
    grid = grid[:-GAP, :-GAP]
    height = len(grid)
    figure = Figure(figsize=(grid.shape[1] / 110, height / 110), dpi=110)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    axis.imshow(grid, interpolation="nearest")
    for k, prompt in enumerate(picked):
        names = [name for name in (by, "fidelity") if name and name in prompt.values]
        facts = [f"{name.replace('_', ' ')} {prompt.values[name]:.2f}" for name in names] or [prompt.id]
        words = _wrapped(prompt.prompt, 26)
        height_of_words = 22 * len(words.splitlines())  # 12 points at 110 dots an inch, and the line's spacing
        top = k * (CELL + GAP) + (CELL - height_of_words - 5 - 18 * len(facts)) / 2
        axis.text(-18, top, words, ha="right", va="top", fontsize=12, parse_math=False)
        axis.text(-18, top + height_of_words + 5, "\n".join(facts), ha="right", va="top", fontsize=10, color=FAINT)
    if by and len(picked) > 1:
        axis.annotate(
            "", (MARGIN, height), (MARGIN, 0), annotation_clip=False, arrowprops=dict(arrowstyle="->", color=FAINT)
        )
        for y, text, va in ((0, "least diverse", "top"), (height, "most diverse", "bottom")):
            axis.text(MARGIN - 8, y, text, rotation=90, ha="right", va=va, fontsize=10, color=FAINT)
    write_whole(path, lambda part: figure.savefig(part, bbox_inches="tight", pad_inches=0.12))
    return True


def _cell(folder: Path, item: Item) -> np.ndarray:
    """A sample's image, CELL high and with a white gap to the right and below; grey where there is none."""
    try:
        frames = read_video(inside(folder, item.file)).frames
        image = frames[len(frames) // 2]
    except UserError:
        image = np.full((CELL, CELL, 3), 224, np.uint8)
    scale = CELL / len(image)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    image = cv2.resize(image, (max(1, round(image.shape[1] * scale)), CELL), interpolation=how)
    return np.pad(image, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)


def _wrapped(text: str, width: int = 44) -> str:
    return textwrap.fill(visible(text), width, max_lines=3, placeholder=" …")
