"""The embedded teachers as they ship: their sizes, stock diffusers on them, and what their clips show."""

from pathlib import Path

import diffusers
import numpy as np
import pytest

from pdmd.files import SUMS, check_sums
from pdmd.sample import load_model
from pdmd.sprites import encoder, quality

TEACHERS = {"sprites": "teacher", "sprites-i2v": "teacher_i2v"}
MB = 10**6


def folder(name: str) -> Path:
    return Path(encoder.__file__).parent / TEACHERS[name]


def weights(path: Path) -> int:
    """Bytes of all safetensors below a folder."""
    return sum(file.stat().st_size for file in path.rglob("*.safetensors"))


def test_the_weights_are_small():
    assert weights(folder("sprites")) <= 16 * MB
    assert weights(folder("sprites").parent) <= 24 * MB


@pytest.mark.parametrize("name", TEACHERS)
def test_stock_diffusers_loads_it_whole(name):
    check_sums(folder(name) / SUMS)
    assert "license: apache-2.0" in (folder(name) / "README.md").read_text()
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder(name))
    assert (
        type(pipeline)
        is {
            "sprites": diffusers.WanPipeline,
            "sprites-i2v": diffusers.WanImageToVideoPipeline,
        }[name]
    )
    assert getattr(pipeline, "image_encoder", None) is None
    parameters = {key: sum(p.numel() for p in getattr(pipeline, key).parameters()) for key in ("transformer", "vae")}
    assert parameters["transformer"] <= 4 * MB
    assert parameters["vae"] <= 2 * MB


@pytest.mark.parametrize("name", TEACHERS)
def test_its_clips_show_what_is_asked_for(name):
    """Of held-out prompts, 40 steps, guided; by chance a third of the factors would be right."""
    figures = quality.measure(load_model(name), 12)
    assert figures["fidelity"]["value"] > 0.75
    assert np.mean([of["value"] for of in figures["fidelity_of"].values()]) > 0.7
