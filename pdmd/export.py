"""A student out to other programs: a diffusers pipeline, or LoRA files. docs/export.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pdmd.errors import UserError, suggest
from pdmd.files import seal, whole_folder
from pdmd.sample import Student, load_model
from pdmd.teachers import CARD, Compute

FORMATS = ("diffusers", "lora")


def export(
    spec: str, to: Path, form: str = "diffusers", tables: Sequence[str] = (), compute: Compute | None = None
) -> Path:
    """Write the student of a run, or of a student's folder, into the new folder `to`; `tables` are Markdown for the
    model card. Adapters are merged in float32 on the device of `compute`, and whole experts written in its dtype, but
    for the layers that diffusers keeps in float32. Raises UserError for what is no student of a pipeline, and for LoRA
    files of whole networks."""
    from pdmd.teachers.lora import Adapted, plain
    from pdmd.teachers.pipeline import PipelineTeacher

    if form not in FORMATS:
        raise UserError(f"--format {form}: {suggest(form, FORMATS)}")
    if to.exists():
        raise UserError(f"{to} already exists; name a new folder")
    compute = compute or Compute()
    model = load_model(spec, compute=compute)
    if not isinstance(model, Student):
        raise UserError(f"{spec} is a teacher; export takes a finished run or a student's folder")
    if not isinstance(model.teacher, PipelineTeacher):
        raise UserError(f"{spec} is a student of {model.teacher.name}, which is no pipeline: its run is all there is")
    experts = list(model.experts)
    if form == "lora" and not all(isinstance(net, Adapted) for net in experts):
        raise UserError(f"{spec} has whole networks, no LoRA: use --format diffusers, or train with --student lora")
    if form == "diffusers":
        experts = [_in_dtype(plain(net), getattr(torch, compute.dtype)) for net in experts]
    try:
        with whole_folder(to) as folder:
            model.teacher.save_student(experts, model.grid, model.steps, folder)
            if tables:
                with (folder / CARD).open("a", encoding="utf-8") as card:
                    card.write("\n".join(["\n## Measured with pdmd bench\n", *tables]))
            seal(folder, CARD)
    except OSError as error:
        raise UserError(f"cannot write {to}: {error.strerror or error}") from None
    return to


def _in_dtype(net: Any, dtype: torch.dtype) -> nn.Module:
    """A network's weights in a dtype, as diffusers' `from_pretrained` has them in it."""
    keep = net._keep_in_fp32_modules or ()
    for name, p in net.named_parameters():
        if not any(part in keep for part in name.split(".")):
            p.data = p.data.to(dtype)
    return net
