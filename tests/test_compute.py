"""The ways to run networks change the loss trace by no more than they say."""

import json
import weakref
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny
import torch
from apart import WAITING, Apart
from torch.autograd import graph

from pdmd import state as states
from pdmd import step
from pdmd.config import make_config
from pdmd.errors import UserError
from pdmd.run import Run
from pdmd.sample import noise
from pdmd.teachers import Compute, Lora, load_teacher, pipeline, residence
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


def kept_by(monkeypatch, folder: str, stage: int, *settings: str) -> tuple:
    """A teacher of two experts in a stage of adapters, and where its networks are; settled once."""
    config = make_config("phased", folder, None, ("student_rank=2", "fake_rank=2", "weight=paper", *settings))
    teacher, plan = load_teacher(folder, None, None, config.compute), config.plan()
    apart = Apart(monkeypatch)
    experts = states.begin(teacher, config, plan).experts
    return teacher, plan, states.begin_stage(teacher, config, plan, experts, stage, 0), apart


@pytest.mark.parametrize("stage", [0, 1])
def test_a_stage_keeps_on_the_device_only_what_it_needs(tmp_path, monkeypatch, stage):
    """Of a teacher of two experts the one that is trained on, with the adapters in training."""
    folder = str(tiny.wan_two(tmp_path / "two"))
    teacher, _, state, apart = kept_by(monkeypatch, folder, stage, "student=lora", "fake=lora")
    nets = [*teacher.experts, *state.experts]
    assert [apart.place(net).type == "cpu" for net in nets] == [stage == 0, stage == 1] * 2
    assert apart.place(state.fake.net).type == "cpu"
    assert state.fake.net.base is state.expert.net.base is teacher.experts[stage]
    before, x = [apart.place(net) for net in nets], noise(teacher, [0], 5)
    apart.moves.clear()
    teacher.velocity(state.experts[1 - stage], x, torch.tensor([0.5]), teacher.encode(["a cross"]))
    visitors = [teacher.experts[1 - stage], state.experts[1 - stage]]
    assert apart.moves == [(net, "runs") for net in visitors] + [(net, "waits") for net in visitors]
    assert [apart.place(net) for net in nets] == before


@pytest.mark.parametrize("setting", ["checkpointing=true", "offload=true"])
@pytest.mark.parametrize("student", ["lora", "full"])
def test_experts_of_the_teacher_take_turns_and_gradients_stay(tmp_path, monkeypatch, setting, student):
    """A step whose noise levels lie on both sides of the boundary: never both experts at once, and the gradients of a
    step that moves nothing, though the one that the generator runs on was away after its forward pass."""
    folder = str(tiny.wan(tmp_path / "two", boundary=0.9, guidance=[4.0, 2.0]))
    kinds = (f"student={student}", "fake=lora", "generator_steps=2", setting)

    def gradients(moving: bool) -> list[torch.Tensor]:
        with pytest.MonkeyPatch.context() as patch:
            teacher, plan, state, apart = kept_by(patch, folder, 0, *kinds)
            if not moving:
                residence.settle(teacher.experts, [], teacher.device)  # both are there to stay
            apart.moves.clear()
            most = []
            visiting = residence.visiting

            @contextmanager
            def counted(net, *args):
                with visiting(net, *args):
                    most.append(sum(apart.place(one).type == "cpu" for one in teacher.experts))
                    yield

            patch.setattr(residence, "visiting", counted)
            phase, x, cond = plan.phases[0], noise(teacher, range(4), 5), teacher.encode(["a cross"] * 4)
            t = step.draw(plan, phase, x, states.generator(0)).t
            assert len({bool(one < teacher.bounds[0]) for one in t}) == 2
            g = states.generator(0)
            step.update_generator(teacher, plan, phase, state.expert, state.fake.net, x, cond, g, 2)
            assert set(most) == ({1} if moving else {2})
            assert bool(apart.moves) == moving
            return [p.grad for p in state.expert.net.parameters() if p.grad is not None]

    moved, still = gradients(True), gradients(False)
    assert max(g.abs().max() for g in still) > 0
    for a, b in zip(moved, still, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_before_they_take_turns_a_graph_lets_go_of_weights(tmp_path, monkeypatch, checkpointing):
    """Moved away after a pass with gradient, an expert's weights are freed where its blocks are recomputed, and only
    there."""
    folder, setting = str(tiny.wan_two(tmp_path / "two")), f"checkpointing={str(checkpointing).lower()}"
    teacher, _, state, apart = kept_by(monkeypatch, folder, 0, "student=lora", "fake=lora", setting)
    base, x = teacher.experts[0], noise(teacher, [0], 5)
    v = teacher.velocity(state.expert.net, x, torch.tensor([0.95]), teacher.encode(["a cross"]))
    storages = [(p.untyped_storage(), p.nbytes) for name, p in base.named_parameters() if "lora_" not in name]
    held = [(weakref.ref(storage), size) for storage, size in storages]
    del storages
    apart.move(base, WAITING)
    left = sum(size for storage, size in held if storage() is not None) / sum(size for _, size in held)
    assert v.requires_grad
    assert left < 0.1 if checkpointing else left > 0.3


def test_a_step_runs_wholly_on_the_device(folder):
    """On torch's meta device, which computes nothing but refuses a tensor that was left behind on the CPU."""
    teacher, meta = load_teacher(str(folder)), torch.device("meta")
    cond, teacher._no_prompt = (
        teacher.encode(prompts).to(meta) for prompts in (["a cross", "a ring", "a red circle"], [""])
    )
    teacher.device = meta
    config = make_config("few-step", str(folder), None, ("student=lora", "fake=lora"))
    plan, g = config.plan(), states.generator(0)
    state = states.begin(teacher, config, plan)
    x = noise(teacher, [0, 1, 2], 5)
    drawn = (teacher, plan, plan.phases[0])
    assert step.fit_fake(*drawn, state.expert.net, state.fake, x, cond, g, 2).device.type == "meta"
    assert step.update_generator(*drawn, state.expert, state.fake.net, x, cond, g, 2).gradient.device.type == "meta"
