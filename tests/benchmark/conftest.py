"""A stand-in model that renders scenes of the world: its media are right by construction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch

from pdmd.errors import UserError
from pdmd.sprites import grammar, world


@pytest.fixture
def parity(record_property) -> Callable[..., None]:
    """Holds the largest difference between two implementations' numbers, in parts of `scale`, to what is allowed, and
    keeps both for tests/parity_table.py. One that is no number (NaN) is no parity."""

    def hold(what: str, ours: Any, theirs: Any, allowed: float, scale: float = 1.0) -> None:
        ours, theirs = np.asarray(ours), np.asarray(theirs)
        assert ours.shape == theirs.shape
        largest = np.abs(ours - theirs).max(initial=0.0) / scale
        record_property("parity", f"{what} | {largest:.1e} | {allowed:g}")
        assert largest <= allowed

    return hold


class Renderer:
    """Renders what the prompt states; what it leaves open follows the seed. Counts what it was asked for."""

    domain = "sprites"
    first_frames = False
    fps = 8.0

    def __init__(self, name: str = "renderer") -> None:
        self.name = name
        self.identity = {"kind": "renderer", "version": 1}
        self.asked: list[tuple[str, int]] = []
        self.fail_after: int | None = None

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], frames: int | None) -> np.ndarray:
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            raise KeyboardInterrupt
        self.asked += zip(prompts, seeds, strict=True)
        scenes = [
            world.sample_scene(np.random.default_rng(seed), grammar.parse(text))
            for text, seed in zip(prompts, seeds, strict=True)
        ]
        return np.stack([world.render(scene, frames or 5) for scene in scenes])


@pytest.fixture
def refused(tmp_path) -> Callable[[Callable[[Path], object], str, object], str]:
    """What an estimator says, in one line, of a file of weights that holds some bytes or an object; None: no file."""

    def says(load: Callable[[Path], object], name: str, content: object) -> str:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            torch.save(content, path)
        with pytest.raises(UserError) as caught:
            load(path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return says


@pytest.fixture(scope="session", autouse=True)
def no_weights_of_the_user(tmp_path_factory) -> Iterator[None]:
    """The caches that weights are looked for in are empty, whatever this machine has."""
    empty = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(empty))
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(empty))
        yield


@pytest.fixture
def renderer() -> Renderer:
    return Renderer()


@pytest.fixture(scope="session")
def make_renderer() -> type[Renderer]:
    return Renderer
