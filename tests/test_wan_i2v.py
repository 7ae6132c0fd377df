"""Image-to-video teachers: what a first frame does, from training prompts to the bench; test_families has the rest."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from diffusers import WanImageToVideoPipeline
from PIL import Image

from pdmd import memory
from pdmd.benchmark import result
from pdmd.config import make_config
from pdmd.errors import UserError
from pdmd.media import read_video, write_png
from pdmd.run import Run
from pdmd.sample import load_model, noise
from pdmd.sprites import grammar, reader, world
from pdmd.starts import read_pictured
from pdmd.teachers import Pictured, load_teacher
from pdmd.train import prepare, train

PROMPTS = [tiny.pictured(text) for text in ("a red circle", "two small blue squares moving left")]
SHORT = ("generator_steps=2", "batch=2", "fits=1", "pool=2", "prompt_count=3", "lr=1e-3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A teacher of one expert."""
    return tiny.wan_i2v(tmp_path_factory.mktemp("teacher") / "i2v", boundary=None)


@pytest.fixture
def pairs(tmp_path) -> Path:
    """A file of training prompts, with images of other sizes than the teacher's, and a blank line."""
    (tmp_path / "images").mkdir()
    rows = []
    for i, size in enumerate((32, 48, 64)):
        write_png(tmp_path / "images" / f"{i}.png", np.random.default_rng(i).integers(0, 256, (32, size, 3), np.uint8))
        rows.append(json.dumps({"text": f"prompt {i}", "image": f"images/{i}.png"}))
    (tmp_path / "pairs.jsonl").write_text("\n\n".join(rows) + "\n")
    return tmp_path / "pairs.jsonl"


def test_clips_go_on_from_their_own_first_frame(folder):
    """Another image gives another sample; a row of a bank of conditions is the condition of its own prompt."""
    teacher = load_teacher(str(folder))
    same = [PROMPTS[0], Pictured(PROMPTS[0], 255 - PROMPTS[0].image)]
    bank, x, t = teacher.encode(same), noise(teacher, [1, 1], 5), torch.tensor([0.9, 0.9])
    v = teacher.guided(x, t, bank)
    assert not torch.allclose(v[0], v[1], atol=1e-2)
    for i, prompt in enumerate(same):
        torch.testing.assert_close(v[i : i + 1], teacher.guided(x[:1], t[:1], teacher.encode([prompt])))
    picked = bank[torch.tensor([1, 0])]
    torch.testing.assert_close(teacher.guided(x, t, picked), v.flip(0))
    mask, latent = picked.given.split(4, dim=1)
    assert mask[:, :, 0].eq(1).all()
    assert mask[:, :, 1:].eq(0).all()
    assert latent.shape[1:] == teacher.shape(5)
    size = memory.read_size(str(folder))
    assert size is not None
    assert size.prompt == memory.PROMPT * 16 + picked.given[0].numel()


def test_what_a_teacher_of_first_frames_does_not_take(folder, tmp_path):
    teacher = load_teacher(str(folder))
    with pytest.raises(UserError, match="needs a first frame with every prompt"):
        teacher.encode([PROMPTS[0], "a red circle"])
    with pytest.raises(UserError, match="frames 1: teacher i2v goes on from a first frame to 5 frames"):
        teacher.shape(1)
    with pytest.raises(UserError, match="4 latent channels, the transformer takes 11 and makes 4, not 12 and 4"):
        load_teacher(str(tiny.wan_i2v(tmp_path / "odd", None, given=7)))
    with pytest.raises(UserError, match="with an image encoder"):
        load_teacher(str(tiny.wan_i2v(tmp_path / "wan2.1", None, config={"image_dim": 8})))


def test_default_prompts_are_true_of_their_first_frames(folder):
    prompts = load_teacher(str(folder)).training_prompts(20, 7, False)
    assert prompts == grammar.training_prompts(20, 7, False)
    for prompt in prompts:
        stated = {k: v for k, v in grammar.parse(prompt).items() if k in world.IMAGE_FACTORS}
        assert prompt.image.shape == (64, 64, 3)
        assert not stated or reader.fidelity(stated, reader.read(prompt.image[None])) == 1


def test_training_on_pairs_of_a_file_probes_and_becomes_a_stock_pipeline(folder, pairs, tmp_path):
    """Two phases of adapters with the health probe on; merged, the stock pipeline makes the same latents."""
    settings = (*SHORT, f"prompts={pairs}", "student=lora", "student_rank=2", "fake=lora", "probe_every=1")
    open_domain = tiny.wan_i2v(tmp_path / "open", None, domain="open", steps=2)
    run = Run.create(tmp_path / "run", make_config("phased", str(open_domain), None, settings))
    task = prepare(run.config)
    assert task.starts.kinds() == [False]  # no single frames, whatever image_every says
    rows = []
    train(run, task, False, lambda *row: rows.append(row[-1]), lambda text: None)
    assert len(rows) == 2
    assert all(np.isfinite(value) for row in rows for value in row.values())
    assert "probe/distance" in rows[-1]
    model = load_model(str(run.folder))
    with torch.no_grad():
        for net in model.experts:
            for p in net.parameters():
                p.add_(0.1)
    from pdmd.teachers.lora import plain

    model.teacher.save_student([plain(net) for net in model.experts], model.grid, model.steps, tmp_path / "stock")
    pipeline = WanImageToVideoPipeline.from_pretrained(tmp_path / "stock")
    pipeline.set_progress_bar_config(disable=True)
    ours = load_model(str(tmp_path / "stock")).latents(PROMPTS[1:], [3], None)
    theirs = pipeline(
        Image.fromarray(PROMPTS[1].image), PROMPTS[1], num_inference_steps=4, output_type="latent",
        latents=noise(model.teacher, [3], 5), **model.teacher.stock_arguments,
    ).frames  # fmt: skip
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert "pipe(IMAGE, PROMPT, num_inference_steps=4" in (tmp_path / "stock" / "README.md").read_text()
    assert "pipeline_tag: image-to-video" in (run.student / "README.md").read_text()


def test_an_open_teacher_needs_pairs(tmp_path):
    spec = str(tiny.wan_i2v(tmp_path / "open", None, domain="open"))
    with pytest.raises(UserError, match=r"give --set prompts=FILE\.jsonl"):
        prepare(make_config("phased", spec, None, SHORT))


BAD = {
    "no JSON": ("a red circle", "prompt 2: expected one JSON object a line"),
    "a list": ('["a", "b"]', "prompt 2: expected one JSON object a line"),
    "no image": ('{"text": "a"}', "prompt 2: expected one JSON object a line"),
    "a number": ('{"text": 3, "image": "images/0.png"}', "prompt 2: text must be a string"),
    "no file": ('{"text": "a", "image": "images/9.png"}', "prompt 2: .*9.png is not there"),
    "no picture": ('{"text": "a", "image": "pairs.jsonl"}', "prompt 2: "),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_one_line(case, pairs):
    line, message = BAD[case]
    pairs.write_text(pairs.read_text().split("\n")[0] + "\n" + line + "\n")
    with pytest.raises(UserError, match=message) as caught:
        read_pictured(pairs)
    assert str(pairs) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_sample_takes_an_image_where_the_model_does(folder, tmp_path, cli, refused):
    write_png(tmp_path / "first.png", PROMPTS[0].image)
    sample = ("sample", folder, "--prompt", "a cross", "--steps", "2", "--out", tmp_path / "clip.mp4")
    assert cli(*sample, "--image", tmp_path / "first.png") == 0
    assert read_video(tmp_path / "clip.mp4").frames.shape == (5, 32, 32, 3)
    assert "model i2v goes on from a first frame: give --image FILE" in refused(*sample)
    assert "none.png is not there" in refused(*sample, "--image", tmp_path / "none.png")
    mixture = ("sample", "mixture", "--prompt", "", "--image", tmp_path / "first.png")
    assert "model mixture takes no --image" in refused(*mixture)


def test_the_bench_runs_on_first_frames(folder, tmp_path, cli):
    arguments = ("bench", "--suite", "motion-i2v", "--model", folder, "--limit", 2, "--quiet", "--out", tmp_path)
    assert cli(*arguments) == 0
    made = result.load(tmp_path / "i2v" / "result.json")
    assert made.metric("optical_flow_dis").n == 2
    assert set(made.generation["first_frames"]["of"]) == {"v000", "v001"}
