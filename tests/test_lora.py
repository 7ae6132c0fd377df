"""Adapters on one base: the same gradients as of separate networks, a base that never changes, its memory."""

import os
import signal
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor, nn

from pdmd import state as states
from pdmd import step
from pdmd.config import make_config
from pdmd.errors import UserError
from pdmd.run import Run
from pdmd.sample import load_model
from pdmd.teachers import Lora, load_teacher
from pdmd.teachers.lora import adapt, checkpoint_blocks, plain
from pdmd.train import Interrupted, prepare, train

LORA = ("student=lora", "fake=lora", "student_rank=2", "fake_rank=3")
SHORT = ("generator_steps=2", "batch=2", "fits=1", "pool=2", "prompt_count=4", "probe_every=0", "lr=1e-2")


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def folder(request, tmp_path_factory) -> Path:
    return tiny.FAMILIES[request.param](tmp_path_factory.mktemp("teachers") / request.param)


@pytest.fixture(scope="module")
def wan(tmp_path_factory) -> Path:
    return tiny.wan(tmp_path_factory.mktemp("teacher") / "wan")


def perturbed(teacher, lora: Lora) -> nn.Module:
    """An adapter that does something: B is random too."""
    net = teacher.network(1.0, lora)
    g = torch.Generator().manual_seed(lora.seed)
    for layer in net.adapter.values():
        layer["lora_B"].weight.data.copy_(0.3 * torch.randn(layer["lora_B"].weight.shape, generator=g))
    return net


def gradients(teacher, expert: nn.Module, fake: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Gradients by name of one fit of F and one step of the generator, unclipped, nothing moved. The whole trajectory
    carries gradient, so that a backward pass recomputes several forwards after T's and F's."""
    plan = make_config("few-step", "sprites", None, ("steps=2",)).plan()
    g = torch.Generator().manual_seed(0)
    x, cond = torch.randn(2, *teacher.shape(teacher.frames), generator=g), teacher.encode(["a red circle", "a cross"])
    made = {}
    for role, net in (("fake", fake), ("expert", expert)):
        trainee = step.Trainee(net, torch.optim.SGD(net.parameters(), lr=0.0))
        if role == "fake":
            step.fit_fake(teacher, plan, plan.phases[0], expert, trainee, x, cond, g)
        else:
            step.update_generator(teacher, plan, plan.phases[0], trainee, fake, x, cond, g)
        made[role] = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    return made


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_three_separate_networks(folder, checkpointing, monkeypatch):
    """T, G and F as whole copies, W + s B A in each: by the chain rule dB = s dW A^T and dA = s B^T dW."""
    monkeypatch.setattr(step, "CLIP", torch.inf)
    apart = load_teacher(str(folder))
    loras = {"expert": Lora("expert_0", 2, 6.0, 1), "fake": Lora("fake", 3, 1.5, 2)}
    adapters = {role: perturbed(apart, lora) for role, lora in loras.items()}
    whole = {role: plain(net).requires_grad_(True) for role, net in adapters.items()}
    expected = gradients(apart, whole["expert"], whole["fake"])

    shared = load_teacher(str(folder))
    if checkpointing:
        checkpoint_blocks(shared.owner(1.0))
    nets = {role: perturbed(shared, lora) for role, lora in loras.items()}
    found = gradients(shared, nets["expert"], nets["fake"])
    for role, net in nets.items():
        scale, want = loras[role].alpha / loras[role].rank, {}
        for path in net.paths:
            key, dw = path.replace(".", "/"), expected[role].get(f"{path}.weight")
            a, b = (net.adapter[key][part].weight.detach() for part in ("lora_A", "lora_B"))
            if dw is not None:  # Qwen-Image's last block does not use what it makes of the text
                want |= {
                    f"adapter.{key}.lora_A.weight": scale * b.T @ dw,
                    f"adapter.{key}.lora_B.weight": scale * dw @ a.T,
                }
        assert found[role].keys() == want.keys()
        largest = max(v.abs().max().item() for v in want.values())
        assert largest > 1e-4
        for name, value in want.items():
            torch.testing.assert_close(found[role][name], value, rtol=0, atol=1e-5 * largest)
    assert all(p.grad is None for p in shared.owner(1.0).parameters() if not p.requires_grad)


def test_a_new_adapter_changes_nothing_and_comes_from_its_seed_alone(wan):
    teacher = load_teacher(str(wan))
    x, t, cond = torch.randn(1, *teacher.shape(5)), torch.tensor([0.7]), teacher.encode(["a cross"])
    before, state = teacher.velocity(teacher.owner(1.0), x, t, cond), torch.get_rng_state()
    one = teacher.network(1.0, Lora("a", 2, 8, 5))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(teacher.velocity(one, x, t, cond), before)
    two = load_teacher(str(wan)).network(1.0, Lora("b", 2, 8, 5))
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(next(one.parameters()), next(teacher.network(1.0, Lora("c", 2, 8, 6)).parameters()))


def test_adding_or_running_an_adapter_leaves_gradient_flags_and_the_base_as_they_were(wan):
    teacher = load_teacher(str(wan))
    base = teacher.owner(1.0)
    x, t, cond = torch.randn(1, *teacher.shape(5)), torch.tensor([0.7]), teacher.encode(["a cross"])
    before = teacher.velocity(base, x, t, cond)
    one = perturbed(teacher, Lora("a", 2, 8, 5))
    frozen = perturbed(teacher, Lora("b", 2, 8, 6)).requires_grad_(False)
    assert not torch.equal(teacher.velocity(frozen, x, t, cond), teacher.velocity(one, x, t, cond))
    assert all(p.requires_grad for p in one.parameters())
    assert not any(p.requires_grad for p in frozen.parameters())
    assert {id(p) for p in base.parameters() if p.requires_grad} == {id(p) for p in one.parameters()}
    assert torch.equal(teacher.velocity(base, x, t, cond), before)


def test_weights_held_are_at_most_a_tenth_more_than_one_transformer(tmp_path):
    """T, both experts of two phases, and F, over unique storages."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = tiny.wan_transformer(heads=8)
    pattern = load_teacher(str(tiny.wan(tmp_path / "wan"))).adapted_layers
    nets = [
        adapt(base.requires_grad_(False), Lora(name, 1, 1, 0), pattern) for name in ("expert_0", "expert_1", "fake")
    ]
    held = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in base.parameters()}
    held |= {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for net in nets for p in net.parameters()}
    one = sum(p.untyped_storage().nbytes() for p in plain(base).parameters())
    assert one < sum(held.values()) <= 1.10 * one


def test_a_run_trains_adapters_alone_and_resumes_to_the_same_weights(wan, tmp_path):
    def begin(name: str) -> Run:
        return Run.create(tmp_path / name, make_config("phased", str(wan), None, (*SHORT, *LORA, "ema=0.5")))

    whole = begin("whole")
    task = prepare(whole.config)
    net = task.teacher.owner(1.0)
    before = {k: v.clone() for k, v in plain(net).state_dict().items()}
    train(whole, task, False, lambda *_: None, lambda text: None)
    assert all(torch.equal(v, before[k]) for k, v in plain(net).state_dict().items())
    assert all(p.grad is None or p.requires_grad for p in net.parameters())

    cut = begin("cut")
    cutting = prepare(cut.config)

    def stop(step: int, *_: object) -> None:
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        train(cut, cutting, False, stop, lambda text: None)
    train(Run.reopen(cut.folder), prepare(cut.config), True, lambda *_: None, lambda text: None)
    files = sorted(path.name for path in whole.student.glob("*.safetensors"))
    assert len(files) == 4
    assert all((cut.student / name).read_bytes() == (whole.student / name).read_bytes() for name in files)
    assert len(load_model(str(whole.folder)).experts) == 2


def test_f_begins_anew_in_every_stage_and_the_old_one_leaves_the_base(wan):
    teacher, config = load_teacher(str(wan)), make_config("phased", str(wan), None, LORA)
    plan = config.plan()
    state = states.begin(teacher, config, plan)
    first = state.fake.net
    state = states.begin_stage(teacher, config, plan, state.experts, 1, 0)
    assert not torch.equal(next(first.parameters()), next(state.fake.net.parameters()))
    layer = next(m for m in state.fake.net.base.modules() if hasattr(m, "lora_A"))
    assert sorted(layer.lora_A) == ["expert_0", "expert_1", "fake"]


def test_the_papers_recipe_and_the_flags_over_it(monkeypatch, cli):
    """What the paper reports, for every teacher that is not embedded; --student and --fake replace it."""
    config = make_config(None, "owner/name")
    assert (config.student, config.student_rank, config.student_alpha, config.fake) == ("lora", 64, 8, "full")
    assert (config.lr, config.fake_lr, config.fits, config.batch, config.steps) == (5e-5, 4e-7, 5, 64, 4)
    assert [len(phase.times) - 1 for phase in config.plan().phases] == [2, 2]
    configs = []

    def asked(config):
        configs.append(config)
        raise UserError("enough")

    monkeypatch.setattr("pdmd.train.prepare", asked)
    for words in ((), ("--student", "full"), ("--fake", "lora"), ("--student", "full", "--fake", "lora")):
        assert cli("train", "--teacher", "owner/name", *words) == 2
    kinds = [(config.student, config.fake) for config in configs]
    assert kinds == [("lora", "full"), ("full", "full"), ("lora", "lora"), ("full", "lora")]


def test_the_mixture_refuses_adapters():
    config = make_config("phased", "mixture", None, LORA)
    with pytest.raises(UserError, match="takes no LoRA"):
        states.begin(load_teacher("mixture"), config, config.plan())
