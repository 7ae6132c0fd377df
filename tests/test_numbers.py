"""Numbers that are not finite stop a run within the step, by name; a diverging F is told of before."""

import json
import math
import re
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from forked import KILLS
from tried import tell

from pdmd import state as states
from pdmd.config import make_config
from pdmd.errors import UserError
from pdmd.health import GROWN, RECENT, FakeWatch
from pdmd.run import Run
from pdmd.sample import Guided
from pdmd.step import NotFinite, Trainee
from pdmd.teachers.mixture import Mixture
from pdmd.teachers.pipeline import PipelineTeacher
from pdmd.train import prepare, train

pytestmark = pytest.mark.fault("a number that is not finite")
SHORT = ("generator_steps=6", "batch=4", "pool=8", "checkpoint_every=2", "probe_every=0", "fits=1", "prompt_count=8")


class Broken(Mixture):
    """The mixture, of which one kind of number goes wrong from a call on."""

    def __init__(self, what: str, call: int, value: float) -> None:
        super().__init__()
        for name, given in (("what", what), ("left", call), ("value", value)):
            object.__setattr__(self, name, given)

    def _spoil(self, what: str, v: torch.Tensor) -> torch.Tensor:
        if what != self.what:
            return v
        object.__setattr__(self, "left", self.left - 1)
        return v * self.value if self.left <= 0 else v

    def guided(self, x, t, cond):
        return self._spoil("teacher", super().guided(x, t, cond))

    def velocity(self, net, x, t, cond):
        v = super().velocity(net, x, t, cond)
        if not v.requires_grad:
            return self._spoil("sample", v)
        if self.what == "gradient":  # the value is fine, its gradient is not
            v.register_hook(lambda g: self._spoil("gradient", g))
        return self._spoil("loss", v)


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=["NaN", "infinite"])
@pytest.mark.parametrize(
    ("what", "call", "says"),
    [("teacher", 4, "teacher"), ("sample", 9, "sample"), ("loss", 7, "fake_loss"), ("gradient", 7, "fake_gradient")],
)
def test_what_is_not_finite_is_named_in_its_step_and_nothing_is_lost(tmp_path, what, call, says, value):
    config = make_config("dmd", "mixture", None, SHORT)
    run, task = Run.create(tmp_path / "run", config), prepare(config)
    object.__setattr__(task, "teacher", Broken(what, call, value))
    seen = []
    with pytest.raises(UserError) as stop:
        train(run, task, False, lambda step, *_: seen.append(step), lambda text: None)
    last = states.checkpoints(run.checkpoints)[-1]
    assert re.match(rf"{says} is not finite at step {seen[-1] + 1}, phase 1; .*{last.name}; lower", str(stop.value))
    saved = states.load(run.checkpoints)
    assert all(torch.isfinite(w).all() for net in (*saved["experts"], saved["fake"]) for w in net.values())
    assert all(math.isfinite(json.loads(line)["fake_loss"]) for line in run.metrics.read_text().splitlines())


def test_no_checkpoint_holds_a_number_that_is_not_finite(tmp_path):
    """PDMD_KILLS times: which number goes wrong, how, and when is drawn."""
    config = make_config("phased", "mixture", None, (*SHORT, "checkpoint_every=1", "batch=2"))
    task, rng = prepare(config), np.random.default_rng(KILLS)
    for trial in range(KILLS):
        run = Run.create(tmp_path / f"run{trial}", config)
        what = str(rng.choice(["teacher", "sample", "loss", "gradient"]))
        value = float(rng.choice([math.nan, math.inf, -math.inf]))
        object.__setattr__(task, "teacher", Broken(what, int(rng.integers(1, 40)), value))
        with suppress(UserError):  # some end before it is drawn
            train(run, task, False, lambda *_: None, lambda text: None)
        if states.checkpoints(run.checkpoints):
            saved = states.load(run.checkpoints)
            assert all(torch.isfinite(w).all() for net in (*saved["experts"], saved["fake"]) for w in net.values())
    tell(trials=KILLS)


def test_a_gradient_that_is_not_finite_reaches_no_optimiser():
    net = torch.nn.Linear(2, 2)
    before = [p.detach().clone() for p in net.parameters()]
    trainee = Trainee(net, torch.optim.AdamW(net.parameters(), 0.1))
    loss = net(torch.ones(1, 2)).sum() * math.inf
    with pytest.raises(NotFinite, match="here"):
        trainee.descend([loss], "here")
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_weights_that_a_step_makes_infinite_end_it():
    net = torch.nn.Linear(1, 1, bias=False)
    net.weight.data.fill_(-3e38)
    with pytest.raises(NotFinite, match="here_weights"):
        Trainee(net, torch.optim.SGD(net.parameters(), 3e38)).descend([net.weight.sum()], "here")


def test_a_rate_that_no_optimiser_takes_is_refused():
    with pytest.raises(UserError, match=r"lr = 1e\+39 is out of range"):
        make_config("phased", "mixture", None, ("lr=1e39",))


def test_a_model_that_makes_nan_says_so_instead_of_black():
    model = Guided(Broken("teacher", 1, math.nan), steps=2)
    with pytest.raises(UserError, match=r"mixture made a sample that is not finite .*seed 5"):
        model.generate(["", ""], [5, 6], None)


def test_pixels_that_are_not_finite_are_an_error():
    config = SimpleNamespace(latents_mean=[0.0], latents_std=[1.0])
    nan = torch.full((1, 3, 1, 8, 8), math.nan)
    vae = SimpleNamespace(config=config, dtype=torch.float32, decode=lambda x, return_dict: (nan,))
    with pytest.raises(UserError, match="autoencoder made pixels that are not finite"):
        PipelineTeacher.decode(
            SimpleNamespace(pipeline=SimpleNamespace(vae=vae), name="t", frames=1, size=(8, 8)),
            torch.zeros(1, 1, 1, 1, 1),
        )


def test_a_diverging_fake_is_told_of_once_a_stage_and_a_steady_one_never():
    g = torch.Generator().manual_seed(0)
    steady = FakeWatch()
    noisy = torch.rand(500, generator=g) + torch.tensor([0.5, 0.5, 0.5, 1.5]).repeat(125)  # every fourth on images
    assert not any(steady.diverges(0, float(loss)) for loss in noisy)
    watch = FakeWatch()
    told = [step for step in range(60) if watch.diverges(0, 1.1 ** max(0, step - 10))]
    assert len(told) == 1
    assert 10 + math.log(GROWN, 1.1) < told[0] < 10 + math.log(GROWN, 1.1) + RECENT
    assert not any(watch.diverges(1, 50.0) for _ in range(20))  # another stage begins anew
    assert any(watch.diverges(1, 50_000.0) for _ in range(RECENT))
