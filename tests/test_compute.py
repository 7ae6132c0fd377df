"""The ways to run networks change the loss trace by no more than they say."""

import json
from pathlib import Path

import pytest
import tiny
import torch
from torch.autograd import graph

from pdmd import state as states
from pdmd import step
from pdmd.config import make_config
from pdmd.errors import UserError
from pdmd.run import Run
from pdmd.sample import noise
from pdmd.teachers import Compute, Lora, load_teacher, pipeline
from pdmd.train import prepare, train

SHORT = (
    "generator_steps=4",
    "batch=3",
    "fits=1",
    "pool=4",
    "prompt_count=4",
    "probe_every=0",
    "lr=1e-3",
    "fake_lr=1e-3",
)
FIGURES = ("fake_loss", "gradient", "gradient_norm", "normaliser/50%")
#: setting -> the largest relative difference of a figure in four steps.
TOLERANCE = {
    "checkpointing=true": 1e-6,
    "offload=true": 1e-6,
    "accumulate=2": 1e-4,
    "dtype=bfloat16": 0.1,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.wan(tmp_path_factory.mktemp("teacher") / "wan")


def trace(folder: Path, to: Path, *settings: str) -> list[list[float]]:
    lora = ("student=lora", "student_rank=2", "fake=full", "image_every=0")
    run = Run.create(to, make_config("phased", str(folder), None, (*SHORT, *lora, *settings)))
    train(run, prepare(run.config), False, lambda *_: None, lambda text: None)
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [[row[name] for name in FIGURES] for row in rows]


@pytest.fixture(scope="module")
def plain(folder, tmp_path_factory) -> list[list[float]]:
    return trace(folder, tmp_path_factory.mktemp("plain") / "run")


@pytest.mark.parametrize("setting", TOLERANCE)
def test_the_loss_trace_stays(folder, plain, tmp_path, setting):
    found = torch.tensor(trace(folder, tmp_path / "run", setting))
    torch.testing.assert_close(found, torch.tensor(plain), rtol=TOLERANCE[setting], atol=1e-7)
    if setting == "dtype=bfloat16":
        assert not torch.allclose(found, torch.tensor(plain), rtol=1e-5)


@pytest.mark.slow
def test_the_loss_trace_stays_when_compiled(folder, plain, tmp_path, monkeypatch):
    """Traced by torch.compile, forward and backward, but run by eager kernels: no C++ compiler is needed."""
    compiled = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net: compiled(net, backend="aot_eager"))
    found = torch.tensor(trace(folder, tmp_path / "run", "compile=true"))
    torch.testing.assert_close(found, torch.tensor(plain), rtol=1e-3, atol=1e-7)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


def test_bfloat16_keeps_what_is_trained_in_float32(folder):
    teacher = load_teacher(str(folder), compute=Compute(dtype="bfloat16"))
    x, cond = torch.randn(1, *teacher.shape(5), generator=torch.Generator().manual_seed(0)), teacher.encode(["a cross"])
    base = teacher.owner(1.0)
    assert base.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    assert teacher.guided(x, torch.tensor([0.5]), cond).dtype == torch.float32
    for net in (teacher.network(), teacher.network(1.0, Lora("a", 2, 8, 0))):
        v = teacher.velocity(net, x, torch.tensor([0.5]), cond)
        v.sum().backward()
        assert v.dtype == torch.float32
        assert {p.dtype for p in net.parameters()} == {torch.float32}
        assert {p.grad.dtype for p in net.parameters() if p.grad is not None} == {torch.float32}


def test_offload_and_checkpointing_are_at_work(folder, monkeypatch):
    """What autograd keeps: with checkpointing less, and with offload all of it through the CPU's memory."""
    packed = []

    class Watched(graph.saved_tensors_hooks):
        def __init__(self, pin_memory: bool) -> None:
            super().__init__(lambda x: packed.append(x.nbytes) or x, lambda x: x)

    monkeypatch.setattr(pipeline, "save_on_cpu", Watched)
    sizes = {}
    for checkpointing in (False, True):
        teacher = load_teacher(str(folder), compute=Compute(checkpointing=checkpointing, offload=True))
        net, x = teacher.network(1.0, Lora("a", 2, 8, 0)), torch.randn(1, *teacher.shape(5))
        packed.clear()
        teacher.velocity(net, x, torch.tensor([0.5]), teacher.encode(["a cross"]))
        sizes[checkpointing] = sum(packed)
    assert 0 < sizes[True] < 0.5 * sizes[False]


def test_parts_of_a_batch_share_it():
    for n, count in ((3, 2), (4, 4), (5, 9), (1, 1)):
        made = step.parts(n, count)
        assert len(made) <= count
        assert [i for rows, _ in made for i in range(n)[rows]] == list(range(n))
        assert sum(share for _, share in made) == pytest.approx(1)


def test_the_mixture_runs_as_it_is():
    with pytest.raises(UserError, match="runs as it is"):
        load_teacher("mixture", compute=Compute(offload=True))


def test_a_stage_keeps_on_the_device_only_what_it_needs(tmp_path, monkeypatch):
    """Of a teacher of two experts, the one that is trained on; the other comes to run and goes back."""
    folder = str(tiny.wan_two(tmp_path / "two"))
    teacher, config = load_teacher(folder), make_config("phased", folder, None, ("student=lora", "fake=lora"))
    experts = states.begin(teacher, config, config.plan()).experts
    names = {id(net): name for net, name in zip(teacher.experts, ("high", "low"), strict=True)}
    moves = []

    def to(net: torch.nn.Module, *args: object, **kwargs: object) -> torch.nn.Module:
        if id(net) in names:  # PEFT moves its new layers too
            moves.append((names[id(net)], str(args[0])))
        return net

    monkeypatch.setattr(torch.nn.Module, "to", to)
    teacher.device = torch.device("meta")  # any that is not the CPU
    for stage, (kept, waits) in enumerate([("high", "low"), ("low", "high")]):
        moves.clear()
        states.begin_stage(teacher, config, config.plan(), experts, stage, 0)
        assert set(moves) == {(kept, "meta"), (waits, "cpu")}
    moves.clear()
    with teacher._on_device(teacher.experts[0]):
        assert moves == [("high", "meta")]
    assert moves == [("high", "meta"), ("high", "cpu")]


def test_a_step_runs_wholly_on_the_device(folder):
    """On torch's meta device, which computes nothing but refuses a tensor that was left behind on the CPU."""
    teacher = load_teacher(str(folder))
    teacher.device = torch.device("meta")
    config = make_config("few-step", str(folder), None, ("student=lora", "fake=lora"))
    plan, g = config.plan(), states.generator(0)
    state = states.begin(teacher, config, plan)
    x, cond = noise(teacher, [0, 1, 2], 5), teacher.encode(["a cross", "a ring", "a red circle"])
    drawn = (teacher, plan, plan.phases[0])
    assert step.fit_fake(*drawn, state.expert.net, state.fake, x, cond, g, 2).device.type == "meta"
    assert step.update_generator(*drawn, state.expert, state.fake.net, x, cond, g, 2).gradient.device.type == "meta"
