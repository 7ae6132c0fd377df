"""A student out to other programs: a diffusers pipeline, or LoRA files. docs/export.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from pdmd.errors import UserError, suggest
from pdmd.files import seal, whole_folder
from pdmd.sample import Student, load_model
from pdmd.teachers import CARD, Compute

FORMATS = ("diffusers", "lora")


def export(
    spec: str, to: Path, form: str = "diffusers", tables: Sequence[str] = (), compute: Compute | None = None
) -> Path:
    """Write the student of a run, or of a student's folder, into the new folder `to`; `tables` are Markdown for the
    model card. All is loaded in float32, adapters are merged in it on the device of `compute`, and whole experts
    written in its dtype, rounded once, but for the layers that diffusers keeps in float32. Raises UserError for what
    is no student of a pipeline, and for LoRA files of whole networks."""
    from pdmd.teachers.lora import Adapted, in_dtype, plain
    from pdmd.teachers.pipeline import PipelineTeacher

    if form not in FORMATS:
        raise UserError(f"--format {form}: {suggest(form, FORMATS)}")
    if to.exists():
        raise UserError(f"{to} already exists; name a new folder")
    compute = compute or Compute()
    model = load_model(spec, compute=replace(compute, dtype="float32"))
    if not isinstance(model, Student):
        raise UserError(f"{spec} is a teacher; export takes a finished run or a student's folder")
    if not isinstance(model.teacher, PipelineTeacher):
        raise UserError(f"{spec} is a student of {model.teacher.name}, which is no pipeline: its run is all there is")
    experts = list(model.experts)
    if form == "lora" and not all(isinstance(net, Adapted) for net in experts):
        raise UserError(f"{spec} has whole networks, no LoRA: use --format diffusers, or train with --student lora")
    if form == "diffusers":
        experts = [in_dtype(plain(net), getattr(torch, compute.dtype)) for net in experts]
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
