"""The arithmetic of memory against the bytes that tensors have in a step; what does not fit is one line."""

import dataclasses
import re

import pytest
import tiny
import torch
from apart import WAITING, Apart
from torch.utils._pytree import tree_leaves

from pdmd import cli, memory, room, speed
from pdmd import state as states
from pdmd.config import make_config
from pdmd.errors import UserError
from pdmd.starts import Starts
from pdmd.teachers import Lora, load_teacher, residence
from pdmd.teachers.lora import plain
from pdmd.teachers.wan import Wan
from pdmd.train import prepare

SMALL = ("pool=4", "prompt_count=4", "batch=2", "fits=1", "image_every=0", "student_rank=4", "fake_rank=4")
CASES = {
    "lora, float32": ("fake=lora", "checkpointing=true"),
    "lora, bfloat16": ("fake=lora", "checkpointing=true", "dtype=bfloat16"),
    "whole, bfloat16": ("student=full", "fake=full", "dtype=bfloat16", "checkpointing=true"),
    "no checkpointing": ("fake=lora", "dtype=bfloat16"),
    "two experts": ("fake=lora", "checkpointing=true", "dtype=bfloat16"),
    "two experts, no checkpointing": ("fake=lora", "dtype=bfloat16"),
    "parts": ("fake=lora", "checkpointing=true", "dtype=bfloat16", "accumulate=2"),
    "offload": ("fake=lora", "checkpointing=true", "dtype=bfloat16", "offload=true"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_estimate_is_what_a_step_takes(case, monkeypatch):
    """The second phase, with its pool; within a fifth. Networks that wait in the CPU's memory are counted by themselves
    (apart.py); what is offloaded is in the same memory here."""
    family = "wan-tiny-two" if "two" in case else "wan-tiny"
    config = make_config("phased", family, None, (*SMALL, *CASES[case]))
    teacher, plan = speed.random_teacher(family, (128, 128, 9), config.compute, 8), config.plan()
    size = memory.size_of(plain(teacher.owner(1.0)), Wan.adapted_layers, tuple(teacher.bounds), teacher.shape(9), 8)
    apart = Apart(monkeypatch)
    starts, experts = Starts(teacher, config, plan), states.begin(teacher, config, plan).experts
    state = states.begin_stage(teacher, config, plan, experts, 1, 0)
    speed.one_step(teacher, plan, state, 1, starts, 0)

    def step() -> None:
        speed.one_step(teacher, plan, state, 1, starts, 0)

    measured = speed.peak_memory(step, speed.held(teacher, state, starts), teacher.device)
    beside = memory.waiting(size, config)
    assert memory.total(size, config) + beside["what a backward pass needs"] == pytest.approx(measured, rel=0.2)
    waits = sum(content.nbytes for of_one in apart.kept.values() for _, content, _, _ in of_one)
    assert beside["networks that wait"] == pytest.approx(waits, rel=0.1)
    assert beside["embeddings of all prompts"] == starts.conditions[False].nbytes
    for net in list(teacher.experts) + state.experts:
        if residence.place(net) == WAITING:
            residence.move(net, torch.device("cpu"))
    saved = sum(x.nbytes for x in tree_leaves(state.tensors()) if isinstance(x, torch.Tensor))
    assert beside["a checkpoint, to be written"] == pytest.approx(saved, rel=0.01)
    assert not len(teacher.experts) > 1 or any(net is teacher.experts[0] for net, _ in apart.moves)  # T's other one


@pytest.mark.parametrize(("family", "most"), [("wan2.1-14b", 1.09), ("wan2.1-1.3b", 1.25)])
def test_weights_held_by_a_state_at_the_papers_rank(family, most, monkeypatch):
    """T, F and the expert in training, over unique storages, as a multiple of one transformer's: docs/scale.md. On the
    meta device, in both phases."""
    settings = ("fake=lora", "fake_rank=64", "dtype=bfloat16", "checkpointing=true", "device=meta")
    config = make_config("phased", "none/none", None, settings)
    assert (config.student, config.student_rank, config.fake_rank) == ("lora", 64, 64)
    waits: dict[int, bool] = {}
    monkeypatch.setattr(residence, "place", lambda net: residence.CPU if waits.get(id(net)) else torch.device("meta"))
    monkeypatch.setattr(residence, "move", lambda net, device: waits.update({id(net): device == residence.CPU}))
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda x, *_, **__: x)  # an adapter's start, which takes time
    teacher = speed.random_teacher(family, (480, 832, 81), config.compute)
    state = states.begin(teacher, config, config.plan())
    for stage in (0, 1):
        state = states.begin_stage(teacher, config, config.plan(), state.experts, stage, 0) if stage else state
        nets = [net for net in (*state.experts, state.fake.net) if not waits.get(id(net))]
        assert nets == [state.expert.net, state.fake.net] == [state.experts[stage], state.fake.net]
        storages = [
            {p.untyped_storage()._cdata: p.untyped_storage().nbytes() for p in weights}
            for weights in (
                [p for name, p in teacher.experts[0].named_parameters() if "lora_" not in name],
                [p for net in nets for p in net.parameters()],
            )
        ]
        one = sum(storages[0].values())
        assert 1.05 < sum((storages[0] | storages[1]).values()) / one <= most


def test_the_published_sizes():
    """Parameters as the models' names have them, and tokens of 81 frames of 480 x 832."""
    small, large = memory.published("wan2.1-1.3b"), memory.published("wan2.1-14b")
    assert small.parameters == pytest.approx(1.42e9, rel=0.01)
    assert large.parameters == pytest.approx(14.3e9, rel=0.01)
    assert large.tokens == 21 * 30 * 52
    assert large.per_rank == 40 * (8 * 2 * 5120 + 2 * (5120 + 13824))
    assert memory.published("wan2.2-a14b") == dataclasses.replace(large, bounds=(0.875,))


def test_processes_share_what_can_be_shared():
    size = memory.published("wan2.2-a14b")
    config = make_config("phased", "none/none", None, ("dtype=bfloat16", "checkpointing=true", "accumulate=8"))
    one, eight, many = (memory.parts(size, config, n) for n in (1, 8, 64))
    for name in ("frozen weights", "F, gradient, optimiser"):
        assert many[name] == pytest.approx(eight[name] / 8)
    assert eight["frozen weights"] == pytest.approx(one["frozen weights"] * 2 / 8)  # alone, one expert waits on the CPU
    assert one["weights gathered to run"] == 0 < eight["weights gathered to run"]


def test_too_little_memory_is_one_line_before_loading(tmp_path, monkeypatch, refused):
    folder = tiny.wan(tmp_path / "wan")
    size = memory.read_size(str(folder))
    assert size.parameters == sum(p.numel() for p in tiny.wan_transformer().parameters())
    monkeypatch.setattr("pdmd.train.load_teacher", lambda *_: pytest.fail("loaded"))
    monkeypatch.setattr(room, "free", lambda device: 1.0)
    assert re.search(r"needs about .* GB on device cpu.*no settings", refused("train", "--teacher", folder))


def test_a_student_as_a_teacher_is_counted_by_its_own_experts_or_by_its_base(tmp_path):
    teacher = load_teacher(str(tiny.wan(tmp_path / "wan")))
    size, grid, steps = memory.read_size(str(tmp_path / "wan")), (1.0, 0.9, 0.75, 0.5, 0.0), (0, 1, 2, 3)
    for name in ("whole", "lora"):
        loras = [Lora(f"expert_{i}", 2, 2, i) if name == "lora" else None for i in steps]
        (tmp_path / name).mkdir()
        teacher.save_student([teacher.network(0.5, lora) for lora in loras], grid, steps, tmp_path / name)
    whole = memory.read_size(str(tmp_path / "whole"))
    assert (whole.parameters, len(whole.bounds)) == (size.parameters, 3)
    assert memory.read_size(str(tmp_path / "lora")) == size


def have(monkeypatch, **free: float) -> None:
    """So many bytes free of each memory, whatever there is."""
    monkeypatch.setattr(room, "free", free.__getitem__)


def test_what_waits_in_the_cpus_memory_must_fit_it(tmp_path, monkeypatch):
    """Beside a GPU: the second expert, embeddings; loading needs room for both experts. Without one, all of it."""
    folder = tiny.wan_two(tmp_path / "wan")
    monkeypatch.setattr("pdmd.train.load_teacher", lambda *_: pytest.fail("loaded"))
    monkeypatch.setattr(room, "check_device", lambda device: None)
    size, settings = memory.read_size(str(folder)), ["checkpointing=true", "prompt_count=10", "batch=2", "pool=2"]
    cuda, cpu = (make_config("phased", str(folder), None, [*settings, f"device={name}"]) for name in ("cuda", "cpu"))
    beside = sum(memory.waiting(size, cuda).values())
    assert beside > 4 * (size.parameters + 10 * size.prompt)
    assert memory.needs(size, cpu) == {"cpu": memory.total(size, cpu) + beside}
    needed = memory.needs(size, cuda)
    have(monkeypatch, cuda=needed["cuda"] / 0.94, cpu=beside - 1)
    with pytest.raises(UserError, match="GB on device cpu, where"):
        prepare(cuda)
    have(monkeypatch, cuda=needed["cuda"] / 0.96, cpu=beside + 1)
    with pytest.raises(UserError, match="GB on device cuda, where"):
        prepare(cuda)
    have(monkeypatch, cuda=needed["cuda"] / 0.94, cpu=beside + 1)
    room.check(cuda)


def test_a_teacher_is_loaded_whole_by_every_process():
    size = memory.published("wan2.2-a14b")
    config = make_config("phased", "none/none", None, ("dtype=bfloat16", "fake=lora", "device=cuda", "prompt_count=1"))
    assert memory.needs(size, config, 64)["cpu"] == pytest.approx(57.2e9, rel=0.01)


def test_what_would_fit_is_named(monkeypatch):
    """Settings first, then processes: docs/scale.md's figures of Wan2.1-14B."""
    size, config = memory.published("wan2.1-14b"), make_config("phased", "none/none", None, ("device=cuda",))
    settings = "--set dtype=bfloat16 --set checkpointing=true --set accumulate=64 --set fake=lora"
    none = "no settings and no number of processes would make it fit"
    have(monkeypatch, cuda=80e9, cpu=1e12)
    assert room.fitting(size, config, 1, 1) == f"it would fit, at 71.3 GB, with {settings}"
    have(monkeypatch, cuda=53e9, cpu=1e12)
    assert room.fitting(size, config, 1, 1).startswith(f"it would fit over 2 processes, by torchrun, with {settings}")
    have(monkeypatch, cuda=80e9, cpu=20e9)  # no room to load it
    assert room.fitting(size, config, 1, 1) == none
    have(monkeypatch, cpu=60e9)  # without a GPU more processes take of the same memory, and so does what is offloaded
    assert room.fitting(size, dataclasses.replace(config, device="cpu"), 1, 1) == none
    have(monkeypatch, cpu=100e9)
    assert room.fitting(size, dataclasses.replace(config, device="cpu"), 1, 1).endswith(settings)


@pytest.mark.parametrize(
    ("module", "argument", "says"),
    [
        (memory, "nowhere", "no size can be read; known: wan2.1-1.3b"),
        (speed, "--family=nowhere", "--family nowhere: known:"),
    ],
    ids=["memory", "speed"],
)
def test_a_module_that_is_a_command_answers_bad_input_in_one_line(module, argument, says, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [module.__name__, argument])
    with pytest.raises(SystemExit) as stop:
        cli.main(module.main)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
