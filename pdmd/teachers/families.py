"""Which adapter reads which pipeline: by the class that its model_index.json names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from torch import nn

from pdmd.embeddings import Embeddings, lack, load_encoder
from pdmd.errors import UserError, first_line
from pdmd.files import check_seal, parse_json
from pdmd.teachers import Compute, Weights, check_device, load_teacher
from pdmd.teachers.lora import in_dtype, plain
from pdmd.teachers.pipeline import PipelineTeacher, folder_sha256
from pdmd.teachers.qwen_image import QwenImage
from pdmd.teachers.settings import read_settings
from pdmd.teachers.students import STUDENT_FILE, attach, bounds_of, expert_names, read_student, student_settings
from pdmd.teachers.wan import Wan
from pdmd.teachers.wan_i2v import WanI2V

#: The families by diffusers' class. One more is one more file and a line here: docs/families.md.
FAMILIES: dict[str, type[PipelineTeacher]] = {
    "WanPipeline": Wan,
    "WanImageToVideoPipeline": WanI2V,
    "QwenImagePipeline": QwenImage,
}

#: Where the parts of a pipeline come from. diffusers imports whatever module model_index.json names.
LIBRARIES = ("diffusers", "transformers")

#: What the hub answers, in a line each; the more special error first.
HUB_ERRORS: dict[type[Exception], str] = {
    GatedRepoError: "is gated: accept its terms at https://huggingface.co/{0}, then log in with: hf auth login",
    RepositoryNotFoundError: "is no folder here and no public model on the hub; for a private one: hf auth login",
    LocalEntryNotFoundError: "is no folder here, not in the cache, and the hub cannot be reached",
    EntryNotFoundError: "is no diffusers pipeline: it has no model_index.json",
    HFValidationError: "is no folder here and no valid hub id (owner/name)",
    HfHubHTTPError: "cannot be had from the hub: it answered with an error",
}


def load(
    spec: str | Path,
    name: str | None = None,
    guidance: Weights | None = None,
    embeddings: Path | None = None,
    compute: Compute | None = None,
    checked: bool = False,
) -> PipelineTeacher:
    """A teacher from a folder or a hub id; where `embeddings` names a folder, prompt embeddings are kept in it.
    A student's folder is a teacher with all its experts, its checksums those that it states unless it is `checked`
    already. Raises UserError for what is no pipeline, of no family known here, or damaged."""
    described = read_student(Path(spec))
    if described and not checked:
        check_seal(Path(spec))
    if described and "lora" in described:
        return _merged(Path(spec), described, guidance, embeddings, compute)
    index = find_index(spec)
    kind = class_name(index)
    if kind not in FAMILIES:
        raise UserError(
            f"{spec} is a {kind}, which is not supported: known are {', '.join(FAMILIES)}; "
            "docs/families.md says how to add one"
        )
    check_parts(index)
    family = FAMILIES[kind]
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.disable_progress_bar()  # loading's bars; ours are for work that takes time
    compute = compute or Compute()
    check_device(compute.device)
    weights = getattr(torch, compute.dtype)
    dtypes = {"transformer": weights, "transformer_2": weights, "default": torch.float32}
    try:
        folder = index.parent if Path(spec).exists() else Path(family.pipeline_class.download(str(spec)))
        encoders = {part: None if embeddings else load_encoder(folder, part) for part in family.encoders}
        pipeline = family.pipeline_class.from_pretrained(folder, dtype=dtypes, **encoders)
        for part in pipeline.components.values():
            if isinstance(part, nn.Module):
                check_whole(part)
        settings = read_settings(folder, family.defaults(pipeline))
        if guidance is not None:
            settings = replace(settings, guidance=guidance)
        teacher = family(pipeline, name or Path(spec).name, folder, settings)
    except UserError:
        raise
    except Exception as error:  # whatever a damaged folder makes its libraries raise
        raise UserError(f"cannot load {spec} as a {kind}: {first_line(error)}") from None
    teacher.spec = name or (str(folder.resolve()) if Path(spec).exists() else str(spec))
    if embeddings is not None:
        teacher.embeddings = Embeddings(embeddings, folder, family.encoders)
    if described:
        experts = _whole(teacher, max(described["experts"]) + 1, weights)
        teacher.take(experts, bounds_of(described["grid"], described["experts"]))
    teacher.run_as(compute)
    return teacher


def check_whole(net: nn.Module) -> None:
    """Raises ValueError where a network's files lacked weights, which diffusers then leaves without memory."""
    if lacking := [name for name, p in net.named_parameters() if p.is_meta]:
        raise ValueError(f"{type(net).__name__}: {lack(lacking)}")


def _whole(own: PipelineTeacher, count: int, weights: torch.dtype) -> list[nn.Module]:
    """The `count` experts of a student's pipeline folder."""
    experts: list[nn.Module] = []
    for name in expert_names(count):
        net = getattr(own.pipeline, name, None)
        if net is None:  # the stock pipeline has no place for it
            try:
                net = type(own.pipeline.transformer).from_pretrained(own.folder / name, dtype=weights)
                check_whole(net)
            except Exception as error:  # as above
                raise UserError(f"cannot load expert {own.folder / name}: {first_line(error)}") from None
        experts.append(net.requires_grad_(False).eval())
    return experts


def _base(
    folder: Path, described: dict[str, Any], embeddings: Path | None = None, compute: Compute | None = None
) -> PipelineTeacher:
    """What a LoRA student's files sit on."""
    try:
        base = load_teacher(described["lora"]["base"], None, embeddings, compute)
    except UserError as error:
        raise UserError(f"{folder} needs its base, named in {STUDENT_FILE}: {error}") from None
    assert isinstance(base, PipelineTeacher)
    return base


def _merged(
    folder: Path,
    described: dict[str, Any],
    guidance: Weights | None,
    embeddings: Path | None,
    compute: Compute | None,
) -> PipelineTeacher:
    """A LoRA student as a teacher: its experts whole, merged in float32."""
    compute = compute or Compute()
    check_device(compute.device)
    base = _base(folder, described, embeddings, Compute())
    dtype = getattr(torch, compute.dtype)
    experts = [in_dtype(plain(net), dtype) for net in attach(base, folder, described)]
    base.pipeline.transformer = experts[0]  # the base's own are no longer needed
    if getattr(base.pipeline, "transformer_2", None) is not None:
        base.pipeline.transformer_2 = experts[-1]
    teacher = type(base)(base.pipeline, folder.name, folder, student_settings(base.settings, described["grid"]))
    teacher.spec, teacher.embeddings = str(folder.resolve()), base.embeddings
    if guidance is not None:
        teacher.guidance = guidance
    teacher.take(experts, bounds_of(described["grid"], described["experts"]))
    teacher.run_as(compute)
    return teacher


def find_index(spec: str | Path) -> Path:
    """model_index.json of a folder, or of a hub id: fetched before the gigabytes, to see what it is."""
    folder = Path(spec)
    if folder.exists():
        if not (folder / "model_index.json").is_file():
            raise UserError(f"{folder} is no diffusers pipeline: it has no model_index.json")
        return folder / "model_index.json"
    try:
        return Path(hf_hub_download(str(spec), "model_index.json"))
    except tuple(HUB_ERRORS) as error:
        message = next(text for kind, text in HUB_ERRORS.items() if isinstance(error, kind))
        raise UserError(f"{spec} {message.format(spec)}") from None


def class_name(index: Path) -> str:
    """The pipeline's class, as model_index.json names it."""
    try:
        return str(parse_json(index.read_bytes())["_class_name"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{index} is damaged: it names no pipeline class") from None


def check_parts(index: Path) -> None:
    """Raises UserError where model_index.json takes a part from elsewhere than LIBRARIES: to load it would run the code
    there."""
    for part, named in parse_json(index.read_bytes()).items():
        if isinstance(named, list) and (len(named) != 2 or named[0] not in (None, *LIBRARIES)):
            raise UserError(f"{index}: its {part} is of no class of {' or '.join(LIBRARIES)}")


def load_student(
    folder: Path, count: int, compute: Compute | None = None
) -> tuple[PipelineTeacher, list[nn.Module], dict[str, Any]]:
    """A student's pipeline, its `count` experts and its identity, from what `save_student` wrote and `check_seal` has
    found whole."""
    described = read_student(folder)
    if described and "lora" in described:
        own = _base(folder, described, compute=compute)
        identity = own.identity() | {"path": str(folder), "sha256": folder_sha256(folder)}
        return own, attach(own, folder, described), identity | {"kind": "student"}
    own = load(folder, checked=True, compute=compute)
    return own, own.experts, own.identity() | {"kind": "student"}
