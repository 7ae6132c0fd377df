"""Prompts x seeds -> media/ and manifest.jsonl, resumable at any sample.

The folder of one model and suite:

    media/ID-SEED.mp4   one file a sample, written under a temporary name, then renamed
    manifest.jsonl      one line a sample, appended only once its file is whole
    generation.json     what made them: model, settings, prompt file

Scoring reads these files and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pdmd.errors import UserError
from pdmd.files import sha256, write_text

from .media import as_fraction, codec_record, write_png, write_video
from .suites import Prompt, PromptSet, Suite

BATCH_SIZE = 8


class Model(Protocol):
    """What the benchmark needs of a model.

    `identity` is JSON-able provenance: kind, path, sha256, steps, guidance, device. A sample's noise depends
    on its seed alone, so that batch size and resume change nothing.
    """

    @property
    def name(self) -> str: ...
    @property
    def identity(self) -> dict[str, Any]: ...
    @property
    def domain(self) -> str: ...
    @property
    def fps(self) -> float: ...
    def generate(self, prompts: Sequence[str], seeds: Sequence[int], frames: int | None) -> np.ndarray:
        """uint8 (n, frames, H, W, 3), RGB; `frames` None is the model's own clip length."""


@dataclass(frozen=True)
class Sample:
    """One line of a manifest. `file` is relative to the manifest; `identity` is the hash of all that
    determines the sample; `sha256` is that of the file. All but id, prompt, seed and file may be absent."""

    id: str
    prompt: str
    seed: int
    file: str
    sha256: str | None = None
    identity: str | None = None


def sample_identity(model: Model, prompt: Prompt, seed: int, frames: int | None) -> str:
    """Hash of everything a sample is a function of: model, prompt, seed, settings."""
    what = [model.identity, float(model.fps), prompt.id, prompt.text, seed, frames, codec_record()]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def generate(
    suite: Suite,
    prompts: PromptSet,
    model: Model,
    out: Path,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Sample]:
    """Make every sample of the suite that `out` does not hold already, whole and of this very identity.

    `progress` is called with the number of samples just completed (or found). Returns the manifest, in the
    order of the prompts. Raises UserError where the disk refuses.
    """
    wanted = [
        (p, seed, sample_identity(model, p, seed, suite.frames)) for p in prompts.prompts for seed in suite.seeds_of(p)
    ]
    write_text(out / "generation.json", json.dumps(_record(suite, prompts, model), indent=2) + "\n")
    manifest = out / "manifest.jsonl"
    found = {s.identity: s for s in read_manifest(manifest, torn_tail=True)} if manifest.is_file() else {}
    kept = {key: found[key] for _, _, key in wanted if key in found and _is_whole(out, found[key])}
    write_text(manifest, "".join(map(_line, kept.values())))
    progress(len(kept))
    todo = [item for item in wanted if item[2] not in kept]
    for start in range(0, len(todo), batch_size):
        batch = todo[start : start + batch_size]
        videos = model.generate([p.text for p, _, _ in batch], [seed for _, seed, _ in batch], suite.frames)
        if videos.ndim != 5 or videos.dtype != np.uint8 or len(videos) != len(batch):
            raise ValueError(f"{model.name} returned {videos.dtype} {videos.shape} for {len(batch)} prompts")
        for (prompt, seed, key), video in zip(batch, videos, strict=True):
            kept[key] = _store(out, prompt, seed, key, video, model)
            _append(manifest, _line(kept[key]))
        progress(len(batch))
    samples = [kept[key] for _, _, key in wanted]
    write_text(manifest, "".join(map(_line, samples)))
    return samples


def read_manifest(path: Path, torn_tail: bool = False) -> list[Sample]:
    """The samples of a manifest. Raises UserError naming the line for anything else; with `torn_tail`, a last
    line that a killed run left unfinished is passed over."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the manifest {path}: {error}") from None
    samples: list[Sample] = []
    for i, line in enumerate(lines, start=1):
        if torn_tail and i == len(lines) and not line.endswith("\n"):
            break
        try:
            row = json.loads(line)
            sample = Sample(**{name: row.get(name) for name in Sample.__dataclass_fields__})
            right = isinstance(sample.file, str) and isinstance(sample.id, str) and isinstance(sample.seed, int)
        except (json.JSONDecodeError, AttributeError):
            right = False
        if not right:
            raise UserError(f"{path}, line {i}: not a manifest line; it needs id, prompt, seed and file")
        if Path(sample.file).is_absolute() or ".." in Path(sample.file).parts:
            raise UserError(f"{path}, line {i}: {sample.file!r} lies outside the manifest's folder")
        samples.append(sample)
    return samples


def _store(out: Path, prompt: Prompt, seed: int, key: str, video: np.ndarray, model: Model) -> Sample:
    """Write one sample's file and return its manifest line."""
    file = f"media/{prompt.id}-{seed}{'.png' if len(video) == 1 else '.mp4'}"
    if len(video) == 1:
        write_png(out / file, video[0])
    else:
        write_video(out / file, video, model.fps)
    return Sample(prompt.id, prompt.text, seed, file, sha256(out / file), key)


def _is_whole(out: Path, sample: Sample) -> bool:
    return (out / sample.file).is_file() and sha256(out / sample.file) == sample.sha256


def _line(sample: Sample) -> str:
    return json.dumps(asdict(sample)) + "\n"


def _append(path: Path, line: str) -> None:
    try:
        with path.open("a", encoding="utf-8") as f:
            f.write(line)
            f.flush()
            os.fsync(f.fileno())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def _record(suite: Suite, prompts: PromptSet, model: Model) -> dict[str, Any]:
    """What generation.json says."""
    return {
        "suite": {
            "name": suite.name,
            "version": suite.version,
            "seeds": list(suite.seeds),
            "own_noise": suite.own_noise,
        },
        "model": {"name": model.name, "domain": model.domain, **model.identity},
        "prompts": {
            "file": prompts.file,
            "version": prompts.version,
            "sha256": prompts.sha256,
            "domain": prompts.domain,
            "n": len(prompts.prompts),
        },
        "media": {"fps": str(as_fraction(model.fps)), "frames": suite.frames, "video": codec_record(), "image": "PNG"},
    }
