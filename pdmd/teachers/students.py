"""Students of pipeline teachers on disk: a pipeline folder of whole experts, or LoRA files on the teacher's weights.

student.json has the grid and the expert of each step in both. With LoRA files it also has `lora`: the base that
they sit on and, for each file, which of the base's transformers. docs/export.md.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from pdmd.errors import UserError, first_line
from pdmd.files import parse_json
from pdmd.flow import shift_of
from pdmd.teachers import CARD, Lora, residence, route
from pdmd.teachers.card import card
from pdmd.teachers.lora import adapt
from pdmd.teachers.pipeline import PipelineTeacher
from pdmd.teachers.settings import SETTINGS_FILE, Settings

STUDENT_FILE = "student.json"
#: So far above a phase's end lies the bound of its expert: schedulers come to a grid's points within 1e-6.
ABOVE = 1e-4
#: What diffusers' `load_lora_weights` expects before a transformer's names, and ComfyUI before its own.
DIFFUSERS, COMFYUI = "transformer.", "diffusion_model."


def expert_names(count: int) -> list[str]:
    """The subfolders of a student's whole experts."""
    return ["transformer", "transformer_2", *(f"expert_{k}" for k in range(3, count + 1))][:count]


def bounds_of(grid: Sequence[float], steps: Sequence[int]) -> list[float]:
    """The noise levels below which the next expert takes over: just above where each phase ends, so that the step that
    starts there is the next one's and whatever lies above is the phase's own."""
    ends = [(grid[i], grid[i + 1]) for i, (a, b) in enumerate(pairwise(steps)) if a != b]
    return [end + min(ABOVE, (before - end) / 2) for before, end in ends]


def student_settings(settings: Settings, grid: Sequence[float]) -> Settings:
    """The teacher's settings as the student's: it has its guidance in it, and its own grid."""
    return replace(settings, guidance=1.0, steps=len(grid) - 1, shift=shift_of(grid))


def save_pipeline(
    teacher: PipelineTeacher, experts: Sequence[Any], grid: Sequence[float], steps: Sequence[int], to: Path
) -> None:
    """A pipeline folder with the experts in `transformer`, `transformer_2`, `expert_3` and so on, its scheduler on
    the grid. Experts that the stock pipeline has no place for stand beside it."""
    bounds = bounds_of(grid, steps)
    own = {"scheduler": teacher.scheduler(grid), **teacher.student_parts(experts, bounds)}
    with teacher.embeddings.loaded(teacher.pipeline, residence.CPU) if teacher.embeddings else nullcontext():
        teacher.pipeline_class(**teacher.pipeline.components | own).save_pretrained(to)
    stock = len(experts) == sum(own.get(name) is not None for name in expert_names(len(experts)))
    for name, net in zip(expert_names(len(experts)), experts, strict=True):
        if not (to / name).is_dir():
            net.save_pretrained(to / name)
    settings = asdict(student_settings(teacher.settings, grid))
    (to / SETTINGS_FILE).write_text(json.dumps(settings, indent=1) + "\n")
    _describe(teacher, grid, steps, to)
    (to / CARD).write_text(card(teacher, grid, bounds, "pipeline" if stock else "beside"), encoding="utf-8")


def save_lora(
    teacher: PipelineTeacher, experts: Sequence[Any], grid: Sequence[float], steps: Sequence[int], to: Path
) -> None:
    """expert_1.safetensors and so on, in diffusers' names and again in ComfyUI's. Their scale alpha / rank is in B,
    so that every loader's scale of 1 is right."""
    bounds, on, files = bounds_of(grid, steps), [], []
    for k, net in enumerate(experts):
        on.append(next(i for i, owner in enumerate(teacher.experts) if owner is net.base))
        files.append(f"expert_{k + 1}.safetensors")
        factors = net.factors()
        about = {
            "grid": list(grid),
            "shift": round(shift_of(grid), 6),
            "boundaries": bounds,
            "steps_of_this_expert": [i for i, expert in enumerate(steps) if expert == k],
            "base_model": teacher.spec,
            "base_transformer": expert_names(len(teacher.experts))[on[-1]],
            "licence": teacher.licence,
            "guidance_scale": 1.0,
        }
        metadata = {"pdmd": json.dumps(about)}  # one entry: safetensors writes several in no fixed order
        for prefix, names, suffix in ((DIFFUSERS, {}, ""), (COMFYUI, teacher.comfyui_names, "_comfyui")):
            tensors = {}
            for path, (a, b) in factors.items():
                for ours, theirs in names.items():
                    path = path.replace(ours, theirs)
                tensors[f"{prefix}{path}.lora_A.weight"] = a.cpu().contiguous()
                tensors[f"{prefix}{path}.lora_B.weight"] = b.cpu().contiguous()
            save_file(tensors, to / f"expert_{k + 1}{suffix}.safetensors", metadata=metadata)
    _describe(teacher, grid, steps, to, {"base": teacher.spec, "files": files, "on": on})
    (to / CARD).write_text(card(teacher, grid, bounds, "lora"), encoding="utf-8")


def _describe(
    teacher: PipelineTeacher,
    grid: Sequence[float],
    steps: Sequence[int],
    to: Path,
    lora: dict[str, Any] | None = None,
) -> None:
    student = {"grid": list(grid), "experts": list(steps), "teacher": teacher.identity()}
    (to / STUDENT_FILE).write_text(json.dumps(student | ({"lora": lora} if lora else {}), indent=1) + "\n")


def read_student(folder: Path) -> dict[str, Any] | None:
    """What student.json says; None where the folder has none. Raises UserError where it is damaged."""
    path = folder / STUDENT_FILE
    if not path.is_file():
        return None
    try:
        described = dict(parse_json(path.read_bytes()))
        _, steps = route(described)
        if not described["teacher"]["sha256"]:
            raise ValueError
        if "lora" in described:
            lora = described["lora"]
            kinds = [type(lora["base"]), *map(type, lora["files"]), *map(type, lora["on"])]
            count = max(steps) + 1
            if kinds != [str] * (count + 1) + [int] * count or min(lora["on"]) < 0:
                raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged; export or train the student again") from None
    return described


def attach(base: PipelineTeacher, folder: Path, described: dict[str, Any]) -> list[nn.Module]:
    """A LoRA student's experts as adapters on the base's transformers. Raises UserError for files that do not fit
    and for a base of other weights."""
    lora = described["lora"]
    if base.identity()["sha256"] != described["teacher"]["sha256"]:
        raise UserError(f"{folder} is a LoRA of another base: the weights of {lora['base']} have changed since")
    made: list[nn.Module] = []
    for k, (name, on) in enumerate(zip(lora["files"], lora["on"], strict=True)):
        try:
            tensors = {key.removeprefix(DIFFUSERS): tensor for key, tensor in load_file(folder / name).items()}
            rank = next(iter(tensors.values())).shape[0]
            net = adapt(base.experts[on], Lora(f"expert_{k}", rank, rank, 0), base.adapted_layers)
            if {key.rpartition(".lora_")[0] for key in tensors} != set(net.paths):
                raise ValueError("its layers are not the base's")
            for path, (a, b) in net.parts().items():
                a.weight.data.copy_(tensors[f"{path}.lora_A.weight"])
                b.weight.data.copy_(tensors[f"{path}.lora_B.weight"])
        except (OSError, SafetensorError, KeyError, IndexError, ValueError, RuntimeError, StopIteration) as error:
            raise UserError(f"cannot load {folder / name} on {lora['base']}: {first_line(error)}") from None
        made.append(net.requires_grad_(False).eval())
    return made
