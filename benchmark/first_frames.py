"""The first frames of the image-to-video suite: one image a pair, of what its `image` describes.

The embedded world's are rendered; any others the model under test makes, from the description. They are made as
samples are: resumable, shared out over processes, with hashes in manifest.jsonl.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pdmd.errors import UserError
from pdmd.files import claim
from pdmd.sprites import grammar, world

from .generate import BATCH_SIZE, Model, Sample, generate
from .shards import ALONE, Shard
from .suites import Prompt, PromptSet, Suite


class Renders:
    """The embedded world itself as a model: it shows what the prompt states, the rest follows the seed."""

    name, domain, fps = "renders", "sprites", float(world.FPS)

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
        return replace(prompt, text=prompt.image)
    try:
        return replace(prompt, text=grammar.prompt(grammar.parse(prompt.text) | grammar.parse(prompt.image)))
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
    manifest. Raises UserError where a prompt describes none."""
    frames = replace(prompts, prompts=tuple(described(prompt, prompts.domain) for prompt in prompts.prompts))
    maker = Renders() if prompts.domain == "sprites" else model
    with claim(out) if shard.rank == 0 else nullcontext():
        return generate(replace(suite, frames=1), frames, maker, out, batch_size, progress, shard=shard)
