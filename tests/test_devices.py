"""Where models run and in what precision: what `--device` and `--dtype` do, and what they refuse."""

import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from apart import WAITING, Apart

from pdmd.embeddings import Embeddings
from pdmd.errors import UserError
from pdmd.sample import load_model
from pdmd.teachers import Compute, Lora, load_teacher

PROMPTS = ["a red circle", "two small blue squares moving left"]
HALF = Compute("bfloat16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.wan(tmp_path_factory.mktemp("teacher") / "wan")


@pytest.mark.parametrize("kind", ["teacher", "full", "lora"])
def test_a_model_runs_in_bfloat16_and_says_so(folder, tmp_path, kind):
    spec = folder
    if kind != "teacher":
        teacher, spec = load_teacher(str(folder)), tmp_path
        nets = [teacher.network(1.0, Lora(f"expert_{k}", 2, 2, k) if kind == "lora" else None) for k in range(2)]
        teacher.save_student(nets, (1.0, 0.8, 0.0), (0, 1), tmp_path)
    model, half = load_model(str(spec)), load_model(str(spec), compute=HALF)
    x, y = (one.latents(PROMPTS, [0, 1], None) for one in (model, half))
    assert y.dtype == torch.float32
    assert 1e-5 < (x - y).norm() / x.norm() < 0.1
    assert half.teacher.owner(1.0).blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    assert half.identity == model.identity | {"dtype": "bfloat16"}  # the default says nothing, as ever


@pytest.mark.parametrize("kind", ["teacher", "full", "lora"])
def test_experts_change_places_once_in_a_sample(tmp_path, monkeypatch, kind):
    """Never both on the device, and none moved for each of its steps."""
    spec = tiny.wan(tmp_path / "two", boundary=0.8, guidance=[4.0, 2.0], steps=6)
    if kind != "teacher":
        teacher, spec = load_teacher(str(spec)), tmp_path / "student"
        spec.mkdir()
        lora = {1.0: Lora("first", 2, 2, 0), 0.5: Lora("second", 2, 2, 0)} if kind == "lora" else {}
        nets = [teacher.network(t, lora.get(t)) for t in (1.0, 0.5)]
        teacher.save_student(nets, (1.0, 0.9, 0.8, 0.4, 0.0), (0, 0, 1, 1), spec)
    model = load_model(str(spec))
    expected, own = model.latents(PROMPTS, [0, 1], None), model.teacher.experts
    apart = Apart(monkeypatch)
    apart.move(own[0], WAITING)  # the first sample has ended with the second one on the device
    nets = own if kind == "teacher" else list(dict.fromkeys((*own, *model.experts)))
    if kind == "lora":
        apart.move(model.experts[0], WAITING)
    for _ in range(2):
        apart.moves.clear()
        assert torch.equal(model.latents(PROMPTS, [0, 1], None), expected)
        assert len(apart.moves) == 2 * len(nets)
        assert [apart.place(net).type == "cpu" for net in own] == [False, True]


@pytest.mark.parametrize("command", ["sample", "bench", "export"])
def test_what_cannot_be_run_is_one_line(folder, tmp_path, refused, command):
    words = {
        "sample": ("sample", folder, "--prompt", "a cross", "--out", tmp_path / "a.mp4"),
        "bench": ("bench", "--model", folder, "--out", tmp_path / "bench"),
        "export": ("export", folder, tmp_path / "out"),
    }[command]
    refusals = {
        ("--device", "nowhere"): "device 'nowhere' cannot be used here",
        ("--device", "meta"): "device 'meta' cannot be used here",
        ("--dtype", "bfloat"): "dtype 'bfloat': did you mean 'bfloat16'",
    }
    for option, message in refusals.items():
        assert message in refused(*words, *option)


def test_the_mixtures_student_runs_as_it_is(tmp_path):
    teacher = load_teacher("mixture")
    (tmp_path / "student.json").write_text(
        json.dumps({"grid": [1.0, 0.0], "experts": [0], "teacher": teacher.identity()})
    )
    (tmp_path / "expert_0.safetensors").touch()
    with pytest.raises(UserError, match="runs as it is"):
        load_model(str(tmp_path), compute=HALF)


@pytest.mark.parametrize("kept", [False, True])
def test_the_text_encoder_runs_on_the_teachers_device(folder, tmp_path, monkeypatch, kept):
    """Where its embeddings are kept it is loaded onto it; else it visits it."""
    teacher = load_teacher(str(folder), embeddings=tmp_path / "kept" if kept else None)
    apart, seen, embed = Apart(monkeypatch), [], type(teacher).embed
    expected = load_teacher(str(folder)).encode(PROMPTS)
    if kept:
        to = torch.nn.Module.to
        monkeypatch.setattr(
            torch.nn.Module, "to", lambda net, *a, **k: seen.append(a[0] if a else k) or to(net, *a, **k)
        )
    else:
        encoder = teacher.pipeline.text_encoder
        apart.move(encoder, WAITING)

        def watched(self, prompts):
            seen.append(apart.place(encoder))
            return embed(self, prompts)

        monkeypatch.setattr(type(teacher), "embed", watched)
    torch.testing.assert_close(teacher.encode(PROMPTS), expected)
    assert seen[-1] == teacher.device
    assert teacher.pipeline.text_encoder is None if kept else apart.place(encoder) == WAITING


def test_a_pipeline_of_two_text_encoders(folder, tmp_path):
    """Both are in the hash, are there to encode, and leave."""
    two = shutil.copytree(folder, tmp_path / "two")
    for part in ("text_encoder", "tokenizer"):
        shutil.copytree(folder / part, two / f"{part}_2")
    index = json.loads((two / "model_index.json").read_text())
    (two / "model_index.json").write_text(json.dumps(index | {"text_encoder_2": index["text_encoder"]}))
    names = ("text_encoder", "text_encoder_2")
    pipeline = load_teacher(str(folder)).pipeline
    one, both = Embeddings(tmp_path, two, names[:1]), Embeddings(tmp_path, two, names)
    assert one.encoder == Embeddings(tmp_path, folder, names[:1]).encoder != both.encoder
    pipeline.text_encoder = None
    with both.loaded(pipeline, torch.device("cpu")):
        assert all(isinstance(getattr(pipeline, name), torch.nn.Module) for name in names)
    assert [getattr(pipeline, name) for name in names] == [None, None]
    next((two / "tokenizer_2").glob("*.json")).write_text("{}")
    assert Embeddings(tmp_path, two, names).encoder != both.encoder
