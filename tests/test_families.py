"""Every family on the real classes at tiny sizes: like the stock pipeline, through every method, and back."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import tiny
import torch
from diffusers import DiffusionPipeline, QwenImagePipeline, UniPCMultistepScheduler
from huggingface_hub import errors
from PIL import Image

from pdmd import state as states
from pdmd.config import make_config
from pdmd.errors import UserError
from pdmd.export import export
from pdmd.flow import time_grid
from pdmd.run import Run
from pdmd.sample import Guided, load_model, noise
from pdmd.teachers import Compute, families, load_teacher
from pdmd.teachers.qwen_image import pack
from pdmd.train import prepare, teacher_of, train

PROMPTS = [tiny.pictured(text) for text in ("a red circle", "two small blue squares moving left")]
METHODS = [("dmd", ()), ("few-step", ()), ("sgts", ()), ("tdm", ()), ("phased", ()), ("phased", ("phases=4",))]


#: With those whose LoRA files and exports are of another's kind, which need no tests of their own.
FAMILIES = tiny.FAMILIES | {"wan2.2-i2v": tiny.wan_i2v}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("teachers")
    return {name: make(root / name) for name, make in FAMILIES.items()}


@pytest.fixture(scope="module")
def folder(family, folders) -> Path:
    return folders[family]


def stock_wan(folder: Path, z: torch.Tensor, grid: tuple[float, ...], prompt=PROMPTS, **given) -> torch.Tensor:
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)

    def set_timesteps(steps: int, device: object = None) -> None:
        # The stock scheduler's own grid ends elsewhere; over ours the latents must agree.
        pipeline.scheduler.sigmas = torch.tensor(grid)
        pipeline.scheduler.timesteps = 1000 * pipeline.scheduler.sigmas[:-1]
        pipeline.scheduler._step_index = None

    pipeline.scheduler.set_timesteps = set_timesteps
    return pipeline(
        prompt=prompt, height=32, width=32, num_frames=5, latents=z.clone(), output_type="latent",
        max_sequence_length=16, num_inference_steps=len(grid) - 1, **given,
    ).frames  # fmt: skip


def stock_qwen_image(folder: Path, z: torch.Tensor, grid: tuple[float, ...], true_cfg_scale: float) -> torch.Tensor:
    """Stock in all: the grid is its scheduler's own, shifted by its size and stretched to its terminal."""
    pipeline = QwenImagePipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        PROMPTS, [" "] * len(PROMPTS), height=32, width=32, latents=pack(z), output_type="latent",
        num_inference_steps=len(grid) - 1, true_cfg_scale=true_cfg_scale,
    ).images  # fmt: skip


def stock_wan_i2v(folder: Path, z: torch.Tensor, grid: tuple[float, ...], **guidance: float) -> torch.Tensor:
    """One at a time: the pipeline takes one image a call."""
    made = []
    for prompt, latent in zip(PROMPTS, z, strict=True):
        made.append(stock_wan(folder, latent[None], grid, prompt, image=Image.fromarray(prompt.image), **guidance))
    return torch.cat(made)


STOCK: dict[str, Callable[[Path, torch.Tensor, tuple[float, ...]], torch.Tensor]] = {
    "wan2.1": lambda folder, z, grid: stock_wan(folder, z, grid, guidance_scale=3.0),
    "wan2.2": lambda folder, z, grid: stock_wan(folder, z, grid, guidance_scale=4.0, guidance_scale_2=2.0),
    "wan2.2-i2v": lambda folder, z, grid: stock_wan_i2v(folder, z, grid, guidance_scale=4.0, guidance_scale_2=2.0),
    "qwen-image": lambda folder, z, grid: stock_qwen_image(folder, z, grid, true_cfg_scale=4.0),
}


def test_guided_latents_equal_the_stock_pipelines(family, folder):
    """Same noise, prompts of unlike length, steps and guidance; Wan2.2's grid lies on both sides of its boundary."""
    teacher = load_teacher(str(folder))
    ours = Guided(teacher, steps=5).latents(PROMPTS, [3, 4], None)
    theirs = STOCK[family](folder, noise(teacher, [3, 4], teacher.frames), teacher.grid(5))
    if family == "qwen-image":
        ours = pack(ours)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    unguided = Guided(load_teacher(str(folder), 1.0), steps=5).latents(PROMPTS, [3, 4], None)
    assert not torch.allclose(unguided.flatten(), ours.flatten(), atol=1e-2)


def test_a_seed_means_the_same_sample_in_any_batch(folder):
    model = load_model(str(folder), steps=2)
    together = model.generate([tiny.pictured("a cross"), *PROMPTS], [5, 6, 7], None)
    assert together.shape == (3, model.frames, 32, 32, 3)
    alone = model.generate([PROMPTS[0]], [6], None)
    assert np.abs(together[1].astype(int) - alone[0].astype(int)).max() <= 1


@pytest.mark.parametrize(("method", "overrides"), METHODS, ids=[m + "".join(o) for m, o in METHODS])
def test_every_method_trains_samples_exports_and_reloads(family, folder, tmp_path, method, overrides):
    steps = 4 if overrides else 2
    short = (f"generator_steps={steps}", "batch=2", "fits=1", "pool=2", "prompt_count=4", "probe_every=0", "lr=1e-3")
    settings = (*short, "student=full", "image_every=2", *overrides)  # clips and, in turn, single frames
    run = Run.create(tmp_path / "run", make_config(method, str(folder), None, settings))
    task = prepare(run.config)
    start = states.begin(task.teacher, run.config, task.plan)
    last = {}

    def report(step: int, total: int, stage: int, row: dict) -> None:
        last.update(row)

    student = train(run, task, False, report, lambda text: None)
    assert all(np.isfinite(value) for value in last.values())
    model = load_model(str(run.folder))
    assert len(model.experts) == max(task.plan.experts) + 1
    for old, new in zip(start.experts, model.experts, strict=True):
        assert any(not torch.equal(a, b) for a, b in zip(old.parameters(), new.parameters(), strict=True))
    latents = model.latents(PROMPTS, [0, 1], None)
    assert torch.isfinite(latents).all()
    again, exported = load_model(str(student)), load_model(str(export(str(run.folder), tmp_path / "exported")))
    assert torch.equal(again.latents(PROMPTS, [0, 1], None), latents)
    torch.testing.assert_close(exported.latents(PROMPTS, [0, 1], None), latents, rtol=0, atol=1e-4)
    assert again.identity["sha256"] == model.identity["sha256"]
    for frames in {model.frames} if model.first_frames else {1, model.frames}:
        assert model.generate(PROMPTS[:1], [0], frames).shape == (1, frames, 32, 32, 3)


def test_a_one_phase_student_is_a_stock_pipeline(family, folder, tmp_path):
    """What is written loads without pdmd, with the trained weights in the transformer's place."""
    teacher = load_teacher(str(folder))
    net = teacher.network(0.1)
    with torch.no_grad():
        next(net.parameters()).add_(1.0)
    teacher.save_student([net], (1.0, 0.0), (0,), tmp_path)
    stock = type(teacher.pipeline).from_pretrained(tmp_path)
    for a, b in zip(stock.transformer.parameters(), net.parameters(), strict=True):
        assert torch.equal(a, b)
    assert getattr(stock, "transformer_2", None) is None


def test_each_sample_goes_to_its_own_expert(folders):
    """A batch on both sides of the boundary is what its samples are one by one, and what the stock rule says."""
    teacher = load_teacher(str(folders["wan2.2"]))
    x, t = noise(teacher, range(4), 5), torch.tensor([0.81, 0.2, 0.8, 0.79])
    cond = teacher.encode([*PROMPTS, "a cross", "a ring"])
    together = teacher.guided(x, t, cond)
    nets = (teacher.pipeline.transformer, teacher.pipeline.transformer_2)
    for i, expert in enumerate((0, 1, 0, 1)):
        one = slice(i, i + 1)
        alone = teacher.guided(x[one], t[one], cond[one])
        torch.testing.assert_close(together[one], alone, rtol=0, atol=1e-5)
        v_cond, v_uncond = (
            teacher.velocity(nets[expert], x[one], t[one], c) for c in (cond[one], teacher.encode([""]))
        )
        expected = v_uncond + (4.0, 2.0)[expert] * (v_cond - v_uncond)
        torch.testing.assert_close(alone, expected, rtol=0, atol=1e-5)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


#: method, overrides -> the teacher's expert that each stage's expert and F start from; the boundary is 0.8.
BEGINNINGS = [
    ("phased", ("shift=5",), ["high", "low"], ["high", "low"]),  # phases (0.83, 1] and (0, 0.83]
    ("phased", ("shift=1",), ["high", "low"], ["low", "low"]),  # phases (0.5, 1] and (0, 0.5]
    ("phased", ("shift=20", "phases=4"), ["high", "high", "high", "low"], ["high", "high", "high", "low"]),
    ("dmd", (), ["high"], ["low"]),  # the whole trajectory: its one step is at t = 1, F is fitted on (0, 1)
    ("tdm", (), ["high"], ["low"]),
]


@pytest.mark.parametrize(("method", "overrides", "experts", "fakes"), BEGINNINGS)
def test_experts_and_f_start_from_the_expert_that_owns_their_noise_levels(folders, method, overrides, experts, fakes):
    teacher = load_teacher(str(folders["wan2.2"]))
    nets = {"high": teacher.pipeline.transformer, "low": teacher.pipeline.transformer_2}
    config = make_config(method, str(folders["wan2.2"]), None, (*overrides, "student=full"))
    plan = config.plan()
    made = states.begin(teacher, config, plan).experts
    assert [[n for n, net in nets.items() if same(net, e)] for e in made] == [[name] for name in experts]
    for stage, name in enumerate(fakes):
        assert same(states.begin_stage(teacher, config, plan, made, stage, 0).fake.net, nets[name])


def test_the_weights_of_guidance_can_be_set_for_each_expert(folders):
    two = str(folders["wan2.2"])
    assert load_teacher(two, make_config(None, two, None, ("guidance=6.0",)).weights).weights == [6.0, 6.0]
    config = make_config(None, two, None, ("guidance=6.0", "guidance_2=5.0"))
    assert load_teacher(two, config.weights).weights == [6.0, 5.0]
    with pytest.raises(UserError, match="takes 1 guidance weight, got 2"):
        load_teacher(str(folders["wan2.1"]), config.weights)
    with pytest.raises(UserError, match="set guidance as well"):
        _ = make_config(None, two, None, ("guidance_2=5.0",)).weights


def test_guidance_goes_away_from_the_negative_prompt(family, folder, tmp_path):
    """From that of the folder's pdmd.json, or of the run; the family's own is no other model."""
    plain = load_model(str(folder))
    own = plain.teacher.settings.negative_prompt
    latents = plain.latents(PROMPTS, [0, 1], None)
    same = load_model(str(folder), negative_prompt=own)
    assert torch.equal(same.latents(PROMPTS, [0, 1], None), latents)
    assert same.identity == plain.identity
    other = load_model(str(folder), negative_prompt="a cross")
    assert not torch.equal(other.latents(PROMPTS, [0, 1], None), latents)
    assert other.identity == plain.identity | {"negative_prompt": "a cross"}
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    settings = json.loads((copy / "pdmd.json").read_text())
    (copy / "pdmd.json").write_text(json.dumps(settings | {"negative_prompt": "a cross"}))
    config = make_config(None, str(folder), None, ("negative_prompt=a cross", f"embeddings={tmp_path / 'kept'}"))
    for teacher in (load_teacher(str(copy)), teacher_of(config, Compute())):
        made = Guided(teacher)
        torch.testing.assert_close(made.latents(PROMPTS, [0, 1], None), other.latents(PROMPTS, [0, 1], None))
    if family == "wan2.1":
        teacher, cond = other.teacher, other.teacher.encode(PROMPTS)
        x, t, net = noise(teacher, [0, 1], 5), torch.tensor([0.5, 0.7]), other.teacher.experts[0]
        v, away = (teacher.velocity(net, x, t, c) for c in (cond, teacher.encode(["a cross"] * 2)))
        torch.testing.assert_close(teacher.guided(x, t, cond), away + teacher.weights[0] * (v - away))
    with pytest.raises(UserError, match="takes no negative prompt"):
        load_teacher("mixture", negative_prompt="a cross")


def test_embeddings_are_kept_and_the_text_encoder_leaves_memory(family, folder, tmp_path, monkeypatch):
    """Same conditions; a second teacher needs no encoder; a damaged file is made anew; the student has it all."""
    whole, teacher = load_teacher(str(folder)), load_teacher(str(folder), None, tmp_path / "kept")
    x, t = noise(whole, [0, 1], whole.frames), torch.tensor([0.9, 0.4])
    expected = whole.guided(x, t, whole.encode(PROMPTS))
    torch.testing.assert_close(teacher.guided(x, t, teacher.encode(PROMPTS)), expected, rtol=0, atol=1e-5)
    assert teacher.pipeline.text_encoder is None
    kept = sorted((tmp_path / "kept").iterdir())
    assert len(kept) == len(PROMPTS) + 1  # and what guidance goes away from
    kept[0].write_bytes(b"damaged")
    calls = []
    embed = type(whole).embed
    monkeypatch.setattr(type(whole), "embed", lambda self, prompts: calls.append(prompts) or embed(self, prompts))
    again = load_teacher(str(folder), None, tmp_path / "kept")
    torch.testing.assert_close(again.guided(x, t, again.encode(PROMPTS)), expected, rtol=0, atol=1e-5)
    assert len(calls) == 1
    again.save_student([again.network()], (1.0, 0.0), (0,), tmp_path / "student")
    assert load_teacher(str(tmp_path / "student")).pipeline.text_encoder is not None


def test_a_published_wans_shift_is_its_unipc_schedulers(folders, tmp_path):
    """Wan's own folders have no Euler scheduler: its shift is UniPC's `flow_shift`."""
    folder = shutil.copytree(folders["wan2.1"], tmp_path / "unipc")
    unipc = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    unipc.save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "UniPCMultistepScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    teacher = load_teacher(str(folder))
    assert type(teacher.pipeline.scheduler) is UniPCMultistepScheduler
    assert (teacher.shift, load_teacher(str(folders["wan2.1"])).shift) == (5.0, 3.0)
    assert teacher.grid(4) == pytest.approx(time_grid(4, 5.0))


def edited(folder: Path, to: Path, name: str, **values: object) -> Path:
    """A folder whose file `name` has other values in it; the weights are links."""
    for path in folder.rglob("*"):
        if path.is_file():
            (to / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (to / path.relative_to(folder)).symlink_to(path)
    content = json.loads((folder / name).read_text()) | values
    (to / name).unlink()
    (to / name).write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return to


BAD = {
    "family": (
        "wan2.1",
        "model_index.json",
        {"_class_name": "FluxPipeline"},
        r"FluxPipeline.*WanPipeline.*families\.md",
    ),
    "no class": ("wan2.1", "model_index.json", {"_class_name": None}, "names no pipeline class"),
    "no boundary": ("wan2.2", "model_index.json", {"boundary_ratio": None}, "together with boundary_ratio"),
    "tokens": ("wan2.1", "model_index.json", {"expand_timesteps": True}, "TI2V"),
    "setting": ("wan2.1", "pdmd.json", {"hight": 32}, "no setting 'hight'; did you mean 'height'"),
    "kind": ("wan2.1", "pdmd.json", {"frames": "five"}, "frames = 'five' is of the wrong kind"),
    "size": ("wan2.1", "pdmd.json", {"height": 40}, "40 x 32 pixels are no multiples of 16"),
    "image size": ("qwen-image", "pdmd.json", {"width": 24}, "32 x 24 pixels are no multiples of 16"),
    "weights": ("qwen-image", "pdmd.json", {"guidance": [4, 3]}, "takes 1 guidance weight, got 2"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_folder_that_does_not_fit_is_one_line(case, folders, tmp_path, refused):
    name, file, values, message = BAD[case]
    assert re.search(message, refused("train", "--teacher", edited(folders[name], tmp_path / "odd", file, **values)))


ODD = {
    "channels made": ("wan2.1", "transformer", {"out_channels": 8}, "takes 4 and makes 8, not 4 and 4"),
    "prompts": ("wan2.1", "transformer", {"text_dim": 8}, "encoder makes 16 channels, its transformer takes 8"),
    "second's channels": ("wan2.2", "transformer_2", {"channels": 8}, "takes 8 and makes 8, not 4 and 4"),
    "second's prompts": ("wan2.2", "transformer_2", {"text_dim": 8}, "take prompts 16 and 8 wide"),
}


@pytest.mark.parametrize("case", ODD)
def test_a_transformer_of_another_teacher_is_one_line(case, folders, tmp_path, refused):
    name, part, config, message = ODD[case]
    odd = shutil.copytree(folders[name], tmp_path / "odd")
    tiny.wan_transformer(**config).save_pretrained(odd / part)
    assert message in refused("train", "--teacher", odd, "--out", tmp_path / "run")
    assert message in refused("sample", odd, "--prompt", "a cross")
    assert not (tmp_path / "run").exists()


def test_a_qwen_image_of_other_parts_is_one_line(folders, tmp_path, refused):
    with pytest.raises(UserError, match="autoencoder has 8 latent channels, the transformer takes 4"):
        load_teacher(str(tiny.qwen_image(tmp_path / "odd", z_dim=8)))
    with pytest.raises(UserError, match="the transformer takes 4 and makes 8"):
        load_teacher(str(tiny.qwen_image(tmp_path / "more", made=8)))
    narrow = tiny.qwen_image(tmp_path / "narrow", width=8)
    for words in (("train", "--teacher", narrow), ("sample", narrow, "--prompt", "a cross")):
        assert "encoder makes 16 channels, its transformer takes 8" in refused(*words)
    with pytest.raises(UserError, match="guidance as an input"):
        load_teacher(str(tiny.qwen_image(tmp_path / "distilled", guidance_embeds=True)))
    with pytest.raises(UserError, match="makes single images"):
        load_teacher(str(folders["qwen-image"])).shape(5)


def test_a_teacher_of_images_samples_an_image(folders, tmp_path, cli):
    assert cli("sample", folders["qwen-image"], "--prompt", "a cross", "--steps", 1) == 0
    assert (tmp_path / "sample.png").read_bytes().startswith(b"\x89PNG")


RESPONSE = SimpleNamespace(headers={}, request=None)
HUB = {
    "gated": (errors.GatedRepoError("no", response=RESPONSE), "is gated: accept its terms at .*owner/name"),
    "missing": (errors.RepositoryNotFoundError("no", response=RESPONSE), "no public model on the hub"),
    "offline": (errors.LocalEntryNotFoundError("no"), "the hub cannot be reached"),
    "no pipeline": (errors.RemoteEntryNotFoundError("no", response=RESPONSE), "no model_index.json"),
    "id": (errors.HFValidationError("no"), "no valid hub id"),
    "server": (errors.HfHubHTTPError("no", response=RESPONSE), "answered with an error"),
}


@pytest.mark.parametrize("case", HUB)
def test_what_the_hub_refuses_is_one_line(case, monkeypatch, refused):
    error, message = HUB[case]

    def refuse(*args: object) -> str:
        raise error

    for place in (families, huggingface_hub):  # pdmd.memory asks first
        monkeypatch.setattr(place, "hf_hub_download", refuse)
    for words in (("train", "--teacher", "owner/name"), ("sample", "owner/name", "--prompt", "a cross")):
        assert re.search(message, refused(*words))
