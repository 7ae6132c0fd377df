"""Prompt embeddings on disk, found by the hash of encoder and prompt, so that a text encoder, which may be
as large as the transformer, is in memory only while there is something left to encode."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from pdmd.errors import UserError, first_line
from pdmd.files import parse_json, write_bytes

#: Raised whenever an adapter's embeddings of the same prompt by the same encoder change.
VERSION = 1
#: What an adapter makes of one prompt: tensors by name, without padding.
Rows = dict[str, Tensor]


class Embeddings:
    """The embeddings of one pipeline's text encoders, parts of it by name, a file a prompt in `folder`.

    Each prompt is encoded by itself, so that its embedding depends on nothing else.
    """

    def __init__(self, folder: Path, pipeline_folder: Path, encoders: Sequence[str]) -> None:
        self.folder, self.pipeline_folder, self.encoders = folder, pipeline_folder, encoders
        digest = hashlib.sha256(str(VERSION).encode())
        for part in (part for name in encoders for part in (name, name.replace("text_encoder", "tokenizer"))):
            for file in sorted((pipeline_folder / part).glob("*")):
                with file.open("rb") as f:
                    digest.update(file.name.encode() + hashlib.file_digest(f, "sha256").digest())
        self.encoder = digest.hexdigest()

    def path(self, prompt: str) -> Path:
        return self.folder / f"{hashlib.sha256((self.encoder + prompt).encode()).hexdigest()}.safetensors"

    def rows(
        self, pipeline: Any, prompts: Sequence[str], embed: Callable[[list[str]], list[Rows]], device: torch.device
    ) -> list[Rows]:
        """A prompt's tensors each, on the CPU, from the folder, or made by `embed` with the text encoders in their
        places on a device.

        Raises UserError where the folder cannot be written.
        """
        kept = {prompt: self._read(prompt) for prompt in prompts}
        found = {prompt: rows for prompt, rows in kept.items() if rows is not None}
        if len(found) < len(kept):
            with self.loaded(pipeline, device):
                for prompt in (p for p in kept if p not in found):
                    found[prompt] = {name: x.cpu() for name, x in embed([prompt])[0].items()}
                    self._write(prompt, found[prompt])
        return [found[prompt] for prompt in prompts]

    @contextmanager
    def loaded(self, pipeline: Any, device: torch.device) -> Iterator[None]:
        """The pipeline has its text encoders inside, on a device, and gives them up after. Raises UserError where one
        cannot be loaded."""
        for part in self.encoders:
            setattr(pipeline, part, load_encoder(self.pipeline_folder, part).to(device))
        try:
            yield
        finally:
            for part in self.encoders:
                setattr(pipeline, part, None)

    def _read(self, prompt: str) -> Rows | None:
        """A prompt's tensors; None where they are not there or damaged."""
        try:
            return load(self.path(prompt).read_bytes())
        except (OSError, SafetensorError):
            return None

    def _write(self, prompt: str, rows: Rows) -> None:
        content = save({name: tensor.contiguous() for name, tensor in rows.items()})
        write_bytes(self.path(prompt), content, "choose another folder with --set embeddings=DIR")


def load_encoder(folder: Path, part: str = "text_encoder") -> nn.Module:
    """A text encoder of a pipeline's folder, float32, frozen. Raises UserError where it cannot be loaded, and where its
    files lack weights, which transformers would draw at random."""
    kind = encoder_class(folder / "model_index.json", part)
    try:
        encoder, about = kind.from_pretrained(folder / part, dtype=torch.float32, output_loading_info=True)
        if lacking := sorted(about["missing_keys"]):
            raise ValueError(lack(lacking))
    except Exception as error:  # whatever a damaged folder makes transformers raise
        raise UserError(f"cannot load {folder / part}: {first_line(error)}") from None
    net: nn.Module = encoder.requires_grad_(False).eval()
    return net


def lack(names: Sequence[str]) -> str:
    """What is said of weights that a network's files lack."""
    return f"its files lack {len(names)} of its weights: {names[0]}{' and others' if len(names) > 1 else ''}"


def encoder_class(index: Path, part: str = "text_encoder") -> Any:
    """The class of a text encoder that model_index.json names, one of transformers' models: to look for it anywhere
    else would run the code there. Raises UserError for any other."""
    import transformers

    try:
        library, name = parse_json(index.read_bytes())[part]
        kind = getattr(transformers, name) if library == transformers.__name__ else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        kind = None
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise UserError(f"{index}: its {part.replace('_', ' ')} is no model of transformers")
    return kind
