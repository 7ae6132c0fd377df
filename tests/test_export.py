"""A student out: stock pipelines on the student's own grid, LoRA files, and every kind of folder back in."""

import json
from pathlib import Path

import pytest
import tiny
import torch
from diffusers import DiffusionPipeline, WanImageToVideoPipeline, WanPipeline
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from pdmd import state as states
from pdmd.benchmark import result
from pdmd.config import make_config
from pdmd.errors import UserError
from pdmd.export import export
from pdmd.flow import time_grid
from pdmd.sample import load_model, noise
from pdmd.teachers import Compute, load_teacher
from pdmd.teachers.qwen_image import pack
from pdmd.teachers.students import ABOVE, bounds_of

PROMPTS = ["a red circle", "two small blue squares moving left"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("teachers")
    return {name: make(root / name) for name, make in tiny.FAMILIES.items()}


def student(folder: Path, phases: int, to: Path, kind: str = "lora", change: float = 0.1) -> Path:
    """A student's folder as a finished run writes it: adapters of another random B each, or whole networks."""
    settings = (f"phases={phases}", f"student={kind}", "student_rank=2", "fake=lora")
    teacher, config = load_teacher(str(folder)), make_config("phased", str(folder), None, settings)
    plan = config.plan()
    experts = states.begin(teacher, config, plan).experts
    g = torch.Generator().manual_seed(0)
    for net in experts:
        for p in net.parameters():
            p.data.add_(change * torch.randn(p.shape, generator=g))
    to.mkdir(parents=True)
    teacher.save_student(experts, plan.grid, plan.experts, to)
    return to


def stock(pipeline, teacher) -> Tensor:
    """A stock pipeline's latents of the prompts, its scheduler as it came, from the noise of seeds 3 and 4."""
    pipeline.set_progress_bar_config(disable=True)
    z = noise(teacher, [3, 4], teacher.frames)
    image = teacher.family == "qwen-image"
    return pipeline(
        PROMPTS, latents=pack(z) if image else z.clone(), output_type="latent", num_inference_steps=4,
        **teacher.stock_arguments,
    )[0]  # fmt: skip


def ours(spec: Path) -> tuple[Tensor, object]:
    model = load_model(str(spec))
    latents = model.latents(PROMPTS, [3, 4], None)
    return (pack(latents) if model.teacher.family == "qwen-image" else latents), model.teacher


#: Family, phases, what the experts are: those that fit the stock pipeline, and those that do not.
STOCK = [
    ("wan2.1", 1, "lora"),
    ("wan2.1", 2, "full"),
    ("wan2.2", 2, "lora"),
    ("qwen-image", 1, "lora"),
]
BESIDE = [("wan2.2", "lora", "lora"), ("qwen-image", "full", "diffusers")]


@pytest.mark.parametrize(("name", "phases", "kind"), STOCK)
def test_stock_diffusers_makes_pdmds_own_latents(folders, tmp_path, name, phases, kind):
    run = student(folders[name], phases, tmp_path / "student", kind)
    expected, teacher = ours(run)
    export(str(run), tmp_path / "out")
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "out")
    assert type(pipeline) is teacher.pipeline_class
    torch.testing.assert_close(stock(pipeline, teacher), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours(tmp_path / "out")[0], expected, rtol=0, atol=1e-5)
    plain = stock(type(pipeline).from_pretrained(folders[name]), teacher)
    assert not torch.allclose(plain, expected, atol=1e-2)


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0, 5.0, 12.0])
def test_the_scheduler_gives_exactly_the_training_grid(folders, shift):
    wan = load_teacher(str(folders["wan2.1"]))
    for steps in (1, 2, 3, 4, 8):
        grid = time_grid(steps, shift)
        scheduler = wan.scheduler(grid)
        scheduler.set_timesteps(steps)
        torch.testing.assert_close(scheduler.sigmas, torch.tensor(grid), rtol=0, atol=1e-6)
        torch.testing.assert_close(scheduler.timesteps, 1000 * torch.tensor(grid[:-1]), rtol=0, atol=1e-3)
    with pytest.raises(UserError, match="lower shift"):
        wan.scheduler(time_grid(50, 50.0))


@pytest.mark.parametrize("suffix", ["", "_comfyui"])
@pytest.mark.parametrize("name", ["wan2.1", "qwen-image"])
def test_lora_files_load_by_stock_diffusers(folders, tmp_path, name, suffix):
    """One phase: the base with the file on it is the student, in diffusers' names and in ComfyUI's, which diffusers
    translates back."""
    run = student(folders[name], 1, tmp_path / "student")
    expected, teacher = ours(run)
    export(str(run), tmp_path / "out", "lora")
    file = tmp_path / "out" / f"expert_1{suffix}.safetensors"
    pipeline = type(teacher.pipeline).from_pretrained(folders[name])
    pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
    pipeline.scheduler = teacher.scheduler(time_grid(4, 5.0))
    torch.testing.assert_close(stock(pipeline, teacher), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("suffix", ["", "_comfyui"])
def test_both_experts_load_into_their_places(folders, tmp_path, suffix):
    run = student(folders["wan2.2"], 2, tmp_path / "student")
    expected, teacher = ours(run)
    pipeline = WanPipeline.from_pretrained(folders["wan2.2"])
    pipeline.load_lora_weights(str(run), weight_name=f"expert_1{suffix}.safetensors")
    pipeline.load_lora_weights(str(run), weight_name=f"expert_2{suffix}.safetensors", load_into_transformer_2=True)
    with safe_open(run / f"expert_2{suffix}.safetensors", "pt") as file:
        about = json.loads(file.metadata()["pdmd"])
    assert about["base_transformer"] == "transformer_2"
    assert about["steps_of_this_expert"] == [2, 3]
    assert (about["licence"], about["guidance_scale"]) == ("apache-2.0", 1.0)
    assert about["shift"] == pytest.approx(5.0)
    assert about["grid"] == pytest.approx(time_grid(4, 5.0))
    assert about["boundaries"] == [pytest.approx(about["grid"][2] + ABOVE)]
    pipeline.register_to_config(boundary_ratio=about["boundaries"][0])
    pipeline.scheduler = teacher.scheduler(about["grid"])
    torch.testing.assert_close(stock(pipeline, teacher), expected, rtol=0, atol=1e-4)


def test_names_are_comfyuis(folders, tmp_path):
    """The names of Wan's own files, which ComfyUI's model has after `diffusion_model.`."""
    run = student(folders["wan2.1"], 1, tmp_path / "student")
    names = {key.rpartition(".lora_")[0] for key in load_file(run / "expert_1_comfyui.safetensors")}
    block = ["self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "ffn.0", "ffn.2"]
    block += [f"cross_attn.{part}" for part in "qkvo"]
    assert names == {f"diffusion_model.blocks.{i}.{part}" for i in (0, 1) for part in block}


@pytest.mark.parametrize(("name", "form"), [("wan2.1", "diffusers"), ("wan2.2", "lora")])
def test_a_student_teaches_each_noise_level_by_the_expert_of_its_phase(folders, tmp_path, name, form):
    """Above a phase's end by its own expert, where the midpoint between two steps would be the next one's."""
    run = student(folders[name], 2, tmp_path / "student")
    export(str(run), tmp_path / "out", form)
    teacher, grid = load_teacher(str(tmp_path / "out")), time_grid(4, 5.0)
    if form == "diffusers":
        assert WanPipeline.from_pretrained(tmp_path / "out").config.boundary_ratio == pytest.approx(grid[2] + ABOVE)
    own = {grid[2] + 0.01: 0, (grid[1] + grid[2]) / 2: 0, grid[1]: 0, grid[2]: 1, grid[3]: 1}
    x, cond, t = noise(teacher, range(len(own)), 5), teacher.encode(["a cross"] * len(own)), torch.tensor([*own])
    v = teacher.guided(x, t, cond)
    for i, (level, expert) in enumerate(own.items()):
        one = slice(i, i + 1)
        assert teacher.owner(level) is teacher.experts[expert]
        expected = teacher.velocity(teacher.experts[expert], x[one], t[one], cond[one])
        torch.testing.assert_close(v[one], expected, rtol=0, atol=1e-5)


def test_bounds_lie_just_above_the_end_of_a_phase():
    for steps, shift in ((4, 5.0), (50, 12.0), (1000, 12.0)):
        grid = time_grid(steps, shift)
        experts = [0, *[1] * (steps - 1)]  # where the grid is at its densest
        (bound,) = bounds_of(grid, experts)
        assert grid[1] < bound < grid[0]
        assert bound - grid[1] <= ABOVE
    assert bounds_of(time_grid(4, 5.0), [0] * 4) == []


@pytest.mark.parametrize("form", ["diffusers", "lora"])
def test_an_image_to_video_student_leaves_in_both_forms(tmp_path, form):
    run = student(tiny.wan_i2v(tmp_path / "i2v"), 2, tmp_path / "student")
    prompts = [tiny.pictured(text) for text in PROMPTS]
    expected = load_model(str(run)).latents(prompts, [3, 4], None)
    out = export(str(run), tmp_path / "out", form)
    model = load_model(str(out))
    torch.testing.assert_close(model.latents(prompts, [3, 4], None), expected, rtol=0, atol=1e-5)
    if form == "diffusers":
        pipeline = WanImageToVideoPipeline.from_pretrained(out)
    else:
        pipeline = WanImageToVideoPipeline.from_pretrained(tmp_path / "i2v")
        pipeline.load_lora_weights(str(out), weight_name="expert_1.safetensors")
        pipeline.load_lora_weights(str(out), weight_name="expert_2.safetensors", load_into_transformer_2=True)
        described = json.loads((out / "student.json").read_text())
        pipeline.register_to_config(boundary_ratio=bounds_of(described["grid"], described["experts"])[0])
        pipeline.scheduler = model.teacher.scheduler(described["grid"])
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        Image.fromarray(prompts[0].image), str(prompts[0]), num_inference_steps=4, output_type="latent",
        latents=noise(model.teacher, [3], 5), **model.teacher.stock_arguments,
    )[0]  # fmt: skip
    torch.testing.assert_close(theirs, expected[:1], rtol=0, atol=1e-4)


def test_adapters_are_merged_before_anything_is_rounded(folders, tmp_path):
    """In bfloat16 a base rounded first would swallow a small change, which is what a short distillation is."""
    run = student(folders["wan2.1"], 2, tmp_path / "student", change=1e-3)
    for name in ("float32", "bfloat16"):
        export(str(run), tmp_path / name, compute=Compute(name))
    for expert in ("transformer", "transformer_2"):
        whole, short = (
            load_file(next((tmp_path / name / expert).glob("*.safetensors"))) for name in ("float32", "bfloat16")
        )
        assert all(torch.equal(short[key], x.to(short[key].dtype)) for key, x in whole.items())
    as_teacher = load_teacher(str(run), compute=Compute("bfloat16"))
    assert as_teacher.pipeline.transformer is as_teacher.experts[0]
    ours = as_teacher.experts[1].state_dict()
    assert all(torch.equal(ours[key], x) for key, x in short.items())


def test_what_is_exported_trains_and_is_measured(folders, tmp_path, cli):
    """Out, in as a teacher, and to the bench, by the command line."""
    run = student(folders["wan2.1"], 2, tmp_path / "student")
    out = tmp_path / "out"
    assert cli("export", run, out, "--dtype", "bfloat16") == 0
    dtypes = {name: x.dtype for name, x in load_file(next((out / "transformer").glob("*.safetensors"))).items()}
    assert dtypes["blocks.0.attn1.to_q.weight"] == torch.bfloat16
    assert dtypes["blocks.0.scale_shift_table"] == torch.float32  # as diffusers keeps it
    settings = ("generator_steps=2", "batch=2", "fits=1", "pool=2", "prompt_count=4", "probe_every=0", "image_every=0")
    sets = [word for setting in settings for word in ("--set", setting)]
    again = ("--student", "lora", "--fake", "lora", "--out", tmp_path / "again")
    assert cli("train", "--teacher", out, *sets, *again) == 0
    assert (
        load_model(str(tmp_path / "again")).teacher.identity()["sha256"] == load_teacher(str(out)).identity()["sha256"]
    )
    bench = ("bench", "--model", out, "--limit", 2, "--dtype", "bfloat16", "--quiet", "--out", tmp_path / "bench")
    assert cli(*bench) == 0
    made = result.load(tmp_path / "bench" / "out" / "result.json")
    assert made.metric("optical_flow_dis").n == 2
    assert made.generation["computed"] == {"device": "cpu", "dtype": "bfloat16"}


@pytest.mark.parametrize(("name", "kind", "form"), BESIDE)
def test_four_phases_come_back_and_teach(folders, tmp_path, name, kind, form):
    """More experts than the stock pipeline has places for: the same latents, and as a teacher each for its levels."""
    run = student(folders[name], 4, tmp_path / "student", kind)
    expected, _ = ours(run)
    export(str(run), tmp_path / "out", form, ["| table |"])
    torch.testing.assert_close(ours(tmp_path / "out")[0], expected, rtol=0, atol=1e-5)
    teacher = load_teacher(str(tmp_path / "out"))
    assert (len(teacher.experts), teacher.weights, teacher.steps) == (4, [1.0] * 4, 4)
    latents = load_model(str(tmp_path / "out")).latents(PROMPTS, [3, 4], None)
    x, cond = noise(teacher, [3, 4], teacher.frames), teacher.encode(PROMPTS)
    for t, s in zip(teacher.grid(4), teacher.grid(4)[1:], strict=False):
        x = x + (s - t) * teacher.guided(x, torch.full((2,), t), cond)
    torch.testing.assert_close(x, latents, rtol=0, atol=1e-5)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| table |" in card
    assert "load_model(FOLDER)" in card


def test_what_cannot_be_exported_is_one_line(folders, tmp_path, refused):
    full = student(folders["wan2.1"], 1, tmp_path / "full", "full")
    lora = student(folders["wan2.1"], 1, tmp_path / "lora")
    cases = [
        (str(folders["wan2.1"]), "diffusers", "is a teacher"),
        (str(full), "lora", "train with --student lora"),
        (str(full), "difusers", "did you mean 'diffusers'"),
    ]
    for spec, form, message in cases:
        with pytest.raises(UserError, match=message):
            export(spec, tmp_path / "out", form)
        assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="already exists"):
        export(str(lora), full)
    described = json.loads((lora / "student.json").read_text())
    other = tiny.wan(tmp_path / "other", heads=3)
    for base, message in ((str(other), "a LoRA of another base"), (str(tmp_path / "gone"), "needs its base")):
        described["lora"]["base"] = base
        (lora / "student.json").write_text(json.dumps(described))
        for words in (("train", "--teacher"), ("bench", "--model"), ("sample", "--prompt", "a cross")):
            assert message in refused(*words, lora)


def test_the_command_line_exports_with_the_benchmarks_table(folders, tmp_path, cli, refused):
    run = student(folders["wan2.1"], 2, tmp_path / "student")
    metric = result.summarise("optical_flow", [1.0, 2.0, 3.0], 3, "DIS", False, {})
    result.save(result.Result(1, "motion", "student", {}, {}, 3, (metric,), (), {}), tmp_path / "result.json")
    assert cli("export", run, tmp_path / "out", "--format", "lora", "--result", tmp_path / "result.json") == 0
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 4
    assert "| student | 3 of 3 |" in (tmp_path / "out" / "README.md").read_text()
    assert (
        refused("export", run, tmp_path / "other", "--format", "onnx") == "pdmd: --format onnx: known: diffusers, lora"
    )
