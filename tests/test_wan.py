"""The Wan adapter on a real pipeline of random weights, so small that it trains in seconds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline
from tiny import wan as tiny

from pdmd.config import make_config
from pdmd.errors import UserError
from pdmd.flow import time_grid
from pdmd.run import Run
from pdmd.sample import Guided, load_model
from pdmd.teachers import load_teacher
from pdmd.train import prepare, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny(tmp_path_factory.mktemp("teacher") / "tiny")


def test_guided_sampling_equals_the_stock_pipeline(folder):
    """Same noise, same prompt, same steps: our latents are WanPipeline's."""
    pipeline = WanPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    teacher = load_teacher(str(folder))
    model = Guided(teacher, steps=5)
    z = torch.randn((1, *teacher.shape(5)), generator=torch.Generator().manual_seed(3))
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    grid = time_grid(5, teacher.shift)
    # Stock schedulers place their last point before 0 otherwise; with our grid they must agree exactly.
    pipeline.scheduler.set_timesteps = lambda n, device=None: _set(pipeline.scheduler, grid)
    theirs = pipeline(
        "a red circle", height=32, width=32, num_frames=5, guidance_scale=3.0, latents=z.clone(), output_type="latent",
        max_sequence_length=16, num_inference_steps=5,
    ).frames  # fmt: skip
    ours = model.latents(["a red circle"], [3], 5)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def _set(scheduler, grid):
    scheduler.sigmas = torch.tensor(grid)
    scheduler.timesteps = 1000 * scheduler.sigmas[:-1]
    scheduler.num_inference_steps = len(grid) - 1
    scheduler._step_index = None


def test_a_seed_means_the_same_sample_in_any_batch(folder):
    model = load_model(str(folder), steps=3)
    together = model.generate(["a red circle", "two squares", "a cross"], [5, 6, 7], 5)
    alone = model.generate(["two squares"], [6], 5)
    assert together.shape == (3, 5, 32, 32, 3)
    assert np.abs(together[1].astype(int) - alone[0].astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("method", "overrides"),
    [("dmd", ()), ("few-step", ()), ("sgts", ()), ("tdm", ()), ("phased", ()), ("phased", ("phases=4",))],
)
def test_every_method_trains_samples_and_reloads(folder, tmp_path, method, overrides):
    short = ("generator_steps=4", "batch=2", "fits=1", "pool=4", "prompt_count=4", "image_every=2", "probe_every=0")
    run = Run.create(tmp_path / "run", make_config(method, str(folder), None, (*short, *overrides)))
    student = train(run, prepare(run.config), False, lambda *_: None, lambda text: None)
    model = load_model(str(run.folder))
    clip = model.generate(["a red circle"], [0], None)
    assert clip.shape == (1, 5, 32, 32, 3)
    assert model.generate(["a red circle"], [0], 1).shape == (1, 1, 32, 32, 3)
    assert np.array_equal(load_model(str(student)).generate(["a red circle"], [0], None), clip)
    moved = [
        not torch.equal(a, b)
        for a, b in zip(model.experts[0].parameters(), load_teacher(str(folder)).network().parameters(), strict=True)
    ]
    assert any(moved)
    if len(set(model.steps)) == 2:
        stock = WanPipeline.from_pretrained(student)
        assert stock.transformer_2 is not None
        assert model.grid[2] < stock.config.boundary_ratio < model.grid[1]


def test_shapes_that_do_not_fit_are_one_clear_error(folder, tmp_path):
    tiny(tmp_path / "odd", channels=8)
    with pytest.raises(UserError, match="autoencoder has 4 latent channels, the transformer takes 8"):
        load_teacher(str(tmp_path / "odd"))
    with pytest.raises(UserError, match="makes 1 \\+ 4 k frames"):
        load_teacher(str(folder)).shape(6)


def test_a_damaged_weight_file_is_one_clear_error(folder, tmp_path):
    import shutil

    broken = shutil.copytree(folder, tmp_path / "broken")
    file = next((broken / "transformer").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(UserError, match="cannot load"):
        load_teacher(str(broken))


def test_sample_writes_a_clip_an_image_and_a_sheet(folder, tmp_path, monkeypatch):
    """Two seeds of five frames: two rows of five, enlarged four times, two pixels between."""
    import sys

    from pdmd.benchmark.media import read_video
    from pdmd.cli import main

    def sample(*args: str) -> None:
        monkeypatch.setattr(sys, "argv", ["pdmd", "sample", str(folder), "--prompt", "a cross", "--steps", "2", *args])
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code

    sample("--out", str(tmp_path / "clip.mp4"))
    assert read_video(tmp_path / "clip.mp4").frames.shape == (5, 32, 32, 3)
    sample("--frames", "1", "--out", str(tmp_path / "one.png"))
    sample("--seed", "0", "--seed", "1", "--out", str(tmp_path / "sheet.png"))
    cv2 = pytest.importorskip("cv2")
    assert cv2.imread(str(tmp_path / "one.png")).shape == (32, 32, 3)
    assert cv2.imread(str(tmp_path / "sheet.png")).shape == (2 * 128 + 2, 5 * 128 + 4 * 2, 3)
