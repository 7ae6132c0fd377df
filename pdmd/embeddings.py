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
from torch import Tensor

from pdmd.errors import UserError, first_line
from pdmd.files import parse_json, write_bytes

#: Raised whenever an adapter's embeddings of the same prompt by the same encoder change.
VERSION = 1
#: What an adapter makes of one prompt: tensors by name, without padding.
Rows = dict[str, Tensor]


class Embeddings:
    """The embeddings of one pipeline's text encoder, a file a prompt in `folder`.

    Each prompt is encoded by itself, so that its embedding depends on nothing else.
    """

    def __init__(self, folder: Path, pipeline_folder: Path) -> None:
        self.folder, self.pipeline_folder = folder, pipeline_folder
        digest = hashlib.sha256(str(VERSION).encode())
        for part in ("text_encoder", "tokenizer"):
            for file in sorted((pipeline_folder / part).glob("*")):
                with file.open("rb") as f:
                    digest.update(file.name.encode() + hashlib.file_digest(f, "sha256").digest())
        self.encoder = digest.hexdigest()

    def path(self, prompt: str) -> Path:
        return self.folder / f"{hashlib.sha256((self.encoder + prompt).encode()).hexdigest()}.safetensors"

    def rows(self, pipeline: Any, prompts: Sequence[str], embed: Callable[[list[str]], list[Rows]]) -> list[Rows]:
        """A prompt's tensors each, from the folder, or made by `embed` with the text encoder in its place.

        Raises UserError where the folder cannot be written.
        """
        kept = {prompt: self._read(prompt) for prompt in prompts}
        found = {prompt: rows for prompt, rows in kept.items() if rows is not None}
        if len(found) < len(kept):
            with self.loaded(pipeline):
                for prompt in (p for p in kept if p not in found):
                    (found[prompt],) = embed([prompt])
                    self._write(prompt, found[prompt])
        return [found[prompt] for prompt in prompts]

    @contextmanager
    def loaded(self, pipeline: Any) -> Iterator[None]:
        """The pipeline has its text encoder inside, and gives it up after. Raises UserError where that cannot be
        loaded."""
        kind = encoder_class(self.pipeline_folder / "model_index.json")
        try:
            encoder = kind.from_pretrained(self.pipeline_folder / "text_encoder", dtype=torch.float32)
        except Exception as error:  # whatever a damaged folder makes transformers raise
            raise UserError(f"cannot load {self.pipeline_folder / 'text_encoder'}: {first_line(error)}") from None
        pipeline.text_encoder = encoder.requires_grad_(False).eval()
        try:
            yield
        finally:
            pipeline.text_encoder = None

    def _read(self, prompt: str) -> Rows | None:
        """A prompt's tensors; None where they are not there or damaged."""
        try:
            return load(self.path(prompt).read_bytes())
        except (OSError, SafetensorError):
            return None

    def _write(self, prompt: str, rows: Rows) -> None:
        content = save({name: tensor.contiguous() for name, tensor in rows.items()})
        write_bytes(self.path(prompt), content, "choose another folder with --set embeddings=DIR")


def encoder_class(index: Path) -> Any:
    """The class of the text encoder that model_index.json names, one of transformers' models: to look for it anywhere
    else would run the code there. Raises UserError for any other."""
    import transformers

    try:
        library, name = parse_json(index.read_bytes())["text_encoder"]
        kind = getattr(transformers, name) if library == transformers.__name__ else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        kind = None
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise UserError(f"{index}: its text encoder is no model of transformers")
    return kind
