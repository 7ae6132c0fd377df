"""The model card of a student's folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pdmd.flow import shift_of

if TYPE_CHECKING:
    from pdmd.teachers.pipeline import PipelineTeacher

HEAD = """---
license: {licence}
base_model: {base}
library_name: diffusers
pipeline_tag: {tag}
tags: [few-step, distribution-matching, pdmd{lora}]
---

# A {steps}-step student of {name}

Distilled with pdmd, by {experts}. Sample without guidance.

| | |
|---|---|
| noise levels | {grid} |
| time shift | {shift:.4g} |
| boundaries between experts | {bounds} |
| size | {height} x {width}, {frames} |
| licence | {licence}, that of the family's published weights |

"""
PIPELINE = """## Load it

    import torch
    from diffusers import {pipeline}
    pipe = {pipeline}.from_pretrained(FOLDER, dtype=torch.bfloat16).to("cuda")
    pipe({asked}, num_inference_steps={steps}, {arguments})

The scheduler gives exactly the noise levels above at {steps} steps, and at no other number.
"""
BESIDE = """## Load it

The stock pipeline has no place for all experts: diffusers loads the first alone and makes wrong samples with it. This
routes each step to its expert, by `student.json`:

    from pdmd.sample import load_model
{more}    pixels = load_model(FOLDER).generate([{prompt}], seeds=[0], frames=None)  # uint8 (n, frames, H, W, 3)
"""
LORA = """## Load it

`expert_K.safetensors` is expert K in diffusers' names, `expert_K_comfyui.safetensors` the same in ComfyUI's. The scale
is in the weights: use a strength of 1. `student.json` says which transformer of the base an expert belongs to (`on`)
and which steps it makes; the files' own metadata repeats it. With pdmd, one copy of the base serves all experts:

    from pdmd.sample import load_model
{more}    pixels = load_model(FOLDER).generate([{prompt}], seeds=[0], frames=None)  # uint8 (n, frames, H, W, 3)

With diffusers an expert is `pipe.load_lora_weights(FOLDER, weight_name="expert_1.safetensors")`, or with
`load_into_transformer_2=True` for the second place of a Wan pipeline. `pdmd export FOLDER DIR --format diffusers`
writes a pipeline with the experts merged, their boundary and the scheduler in place.
"""
#: What the lines of `BESIDE` and `LORA` need where a prompt has a first frame.
PICTURED = "    from pdmd.teachers import Pictured  # IMAGE: uint8 (H, W, 3)\n"


def card(teacher: PipelineTeacher, grid: Sequence[float], bounds: Sequence[float], kind: str) -> str:
    """Markdown with the front matter of a model card; `kind` is "pipeline" (stock), "beside" or "lora"."""
    n, image, pictured = len(bounds) + 1, teacher.frames == 1, teacher.first_frames
    values = {
        "licence": teacher.licence,
        "base": teacher.spec,
        "tag": "text-to-image" if image else "image-to-video" if pictured else "text-to-video",
        "asked": "IMAGE, PROMPT" if pictured else "PROMPT",
        "prompt": "Pictured(PROMPT, IMAGE)" if pictured else "PROMPT",
        "more": PICTURED if pictured else "",
        "lora": ", lora" if kind == "lora" else "",
        "steps": len(grid) - 1,
        "name": teacher.name,
        "experts": "one network" if n == 1 else f"{n} experts, each for its own noise levels",
        "grid": ", ".join(f"{t:.6g}" for t in grid),
        "shift": shift_of(grid),
        "bounds": ", ".join(f"{t:.6g}" for t in bounds) or "none",
        "height": teacher.size[0],
        "width": teacher.size[1],
        "frames": "single images" if image else f"{teacher.frames} frames at {teacher.fps} a second",
        "arguments": ", ".join(f"{key}={value}" for key, value in teacher.stock_arguments.items()),
        "pipeline": teacher.pipeline_class.__name__,
    }
    return (HEAD + {"pipeline": PIPELINE, "beside": BESIDE, "lora": LORA}[kind]).format(**values)
