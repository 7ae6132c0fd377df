"""The first frames of the image-to-video suite: one image a pair, of what its `image` describes.

The embedded world's are rendered; any others a model of images or of text to video makes, from the description. They
are made as samples are: resumable, shared out over processes, with hashes in manifest.jsonl.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pdmd.errors import UserError
from pdmd.files import claim, sha256
from pdmd.media import inside, read_video
from pdmd.sprites import grammar, world

from .generate import BATCH_SIZE, Model, Sample, generate, read_manifest
from .given import media_files, named
from .shards import ALONE, Shard
from .suites import FirstFrame, Prompt, PromptSet, Suite

FOLDER = "first-frames"  # of those that a run renders, beside its models' folders


class Renders:
    """The embedded world itself as a model: it shows what the prompt states, the rest follows the seed."""

    name, domain, fps, first_frames = "renders", "sprites", float(world.FPS), False

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": "renders", "path": "pdmd.sprites.world"}

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], frames: int | None) -> np.ndarray:
        """Pixels, uint8 (n, frames, H, W, 3)."""
        scenes = [
            world.sample_scene(np.random.default_rng(seed), grammar.parse(text))
            for text, seed in zip(prompts, seeds, strict=True)
        ]
        return np.stack([world.render(scene, frames or world.FRAMES) for scene in scenes])


def described(prompt: Prompt, domain: str) -> Prompt:
    """The prompt of a pair's first frame. In the embedded world it states the motion too, so that the objects
    stand where they have room for it. Raises UserError for a prompt that describes none."""
    if prompt.image is None:
        raise UserError(f"prompt {prompt.id} has no 'image': it describes no first frame")
    if domain != "sprites":
        return replace(prompt, text=prompt.image, image=None)
    try:
        text = grammar.prompt(grammar.parse(prompt.image) | grammar.parse(prompt.text))
        return replace(prompt, text=text, image=None)
    except ValueError as error:
        raise UserError(f"prompt {prompt.id}: {error}") from None


def prepare(
    suite: Suite,
    prompts: PromptSet,
    model: Model,
    out: Path,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int, int], None] = lambda done, total: None,
    shard: Shard = ALONE,
) -> list[Sample]:
    """Make the first frame of every pair that `out` does not hold already: media/ID-SEED.png. Returns the
    manifest. Raises UserError where a prompt describes none, and for a model that needs one itself."""
    frames = replace(prompts, prompts=tuple(described(prompt, prompts.domain) for prompt in prompts.prompts))
    maker = Renders() if prompts.domain == "sprites" else model
    if maker.first_frames:
        raise UserError(f"model {maker.name} needs first frames itself; give one of images, or of text to video")
    with claim(out) if shard.rank == 0 else nullcontext():
        return generate(replace(suite, frames=1), frames, maker, out, batch_size, progress, shard=shard)


def attach(prompts: PromptSet, folder: Path) -> PromptSet:
    """The prompts with their first frames: those of the folder's manifest, or its images by file name (ID.png,
    ID-SEED.png). Raises UserError where one is missing, unreadable, damaged, or was made for another prompt."""
    own = {prompt.id: described(prompt, prompts.domain) for prompt in prompts.prompts}
    found: dict[str, tuple[Path, Sample | None]]
    if (folder / "manifest.jsonl").is_file():
        found = {s.id: (inside(folder, s.file), s) for s in read_manifest(folder / "manifest.jsonl")}
    elif folder.is_dir():
        files = ((named(file, own), file) for file in media_files(folder, images=True))
        found = {at[0].id: (folder / file, None) for at, file in files if at}
    else:
        raise UserError(f"no folder of first frames {folder}")
    made = []
    for prompt in prompts.prompts:
        if prompt.id not in found:
            raise UserError(f"{folder} has no first frame of prompt {prompt.id}; pdmd bench prepare-i2v makes them")
        path, sample = found[prompt.id]
        read_video(path)  # it can be read
        frame = FirstFrame(path, sha256(path))
        if sample and sample.prompt and sample.prompt != own[prompt.id].text:
            raise UserError(f"{path} was made for another prompt than {prompt.id}: {sample.prompt!r}")
        if sample and sample.sha256 and sample.sha256 != frame.sha256:
            raise UserError(f"{path} is damaged: its sha256 is not that of the manifest")
        made.append(replace(prompt, first_frame=frame))
    return replace(prompts, prompts=tuple(made))


def check(suite: Suite, model: Model, folder: Path | None) -> None:
    """Raises UserError unless the model takes first frames where the suite has them, and there alone; and where
    there is no folder of them and they cannot be rendered."""
    if suite.first_frames and not model.first_frames:
        raise UserError(f"model {model.name} takes no first frame, which suite {suite.name} begins from")
    if model.first_frames and not suite.first_frames:
        raise UserError(f"model {model.name} goes on from first frames, of which suite {suite.name} has none")
    if suite.first_frames and folder is None and model.domain != "sprites":
        raise UserError(
            f"suite {suite.name} needs --first-frames DIR for {model.name}; make them by: pdmd bench prepare-i2v "
            "--model MODEL --out DIR, with a model of images or of text to video"
        )


def with_first_frames(
    suite: Suite, prompts: PromptSet, folder: Path | None, out: Path, shard: Shard = ALONE
) -> PromptSet:
    """The prompts with their first frames: the folder's, or else rendered into `out`/first-frames."""
    if folder is None:
        prepare(suite, prompts, Renders(), out / FOLDER, shard=shard)
        shard.wait()
    return attach(prompts, folder or out / FOLDER)
