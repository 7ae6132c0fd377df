"""Two processes train as one does: losses, checkpoints, going on in another number of them, a killed process."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import several
import tiny
import torch

from pdmd import parallel
from pdmd import state as states
from pdmd.config import make_config
from pdmd.errors import UserError
from pdmd.files import SUMS
from pdmd.run import Run
from pdmd.sample import load_model
from pdmd.teachers import load_teacher
from pdmd.train import Interrupted, check_tokens, prepare


def torchrun(folder: Path, *names: str) -> subprocess.CompletedProcess:
    """Two processes: tests/several.py."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*command, several.__file__, folder, *names],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )


def same(a: Path, b: Path) -> None:
    """All figures but the time, to 1e-5."""
    found, expected = ([json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()] for run in (a, b))
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"seconds"}:
            assert one[name] == pytest.approx(other[name], rel=1e-5, abs=1e-9), (name, one["step"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What one process makes: the mixture's run and a Wan's with adapters, and those two begun."""
    folder = tmp_path_factory.mktemp("several")
    tiny.wan_two(folder / "wan")
    for name in ("mixture", "lora"):
        several.go(several.begin(folder, f"one-{name}", name))
        with pytest.raises(Interrupted):
            several.go(several.begin(folder, f"begun-{name}", name), at_cut=several.stop(signal.SIGTERM))
    return folder


@pytest.fixture(scope="module")
def two(folder) -> subprocess.CompletedProcess:
    return torchrun(folder, "mixture", "faults")


def same_student(a: Path, b: Path) -> None:
    x, y = (load_model(str(run)).latents(["a cross"], [0], None) for run in (a, b))
    torch.testing.assert_close(x, y, rtol=0, atol=1e-4)


def test_two_processes_log_the_losses_of_one_and_write_its_student(folder, two):
    same(folder / "two-mixture", folder / "one-mixture")
    same_student(folder / "two-mixture", folder / "one-mixture")


@pytest.mark.parametrize("name", ["mixture", "lora"])
def test_a_signal_to_one_process_saves_all_and_one_process_goes_on(folder, two, name):
    """The steps before are those of two processes."""
    run = folder / f"stopped-{name}"
    assert f"{name} stopped at {several.CUT}" in two.stdout
    assert states.load(run / "checkpoints")["step"] == several.CUT
    assert states.checkpoints(run / "checkpoints")[-1].is_dir()
    several.go(Run.reopen(run), resume=True)
    same(run, folder / f"one-{name}")


@pytest.mark.parametrize("name", ["mixture", "lora"])
def test_two_processes_go_on_where_one_stopped(folder, two, name):
    run = folder / f"begun-{name}"
    assert {path.suffix for path in states.checkpoints(run / "checkpoints")} == {".pt", ""}
    same(run, folder / f"one-{name}")
    same_student(run, folder / f"one-{name}")


def test_a_killed_process_ends_the_run_with_one_line_and_leaves_the_checkpoint(folder, two):
    assert two.returncode != 0
    (line,) = [line for line in two.stderr.splitlines() if line.startswith("pdmd: ")]
    assert "another process of this run has ended" in line
    assert "--resume" in line
    assert states.load(folder / "killed" / "checkpoints")["step"] < several.CUT + 1
    several.go(Run.reopen(folder / "killed"), resume=True)
    same(folder / "killed", folder / "one-mixture")


def test_a_damaged_folder_or_one_of_another_network_is_one_line(folder, two):
    run = Run.reopen(folder / "two-mixture")
    run.close()
    task = prepare(run.config)
    experts = states.begin(task.teacher, run.config, task.plan).experts
    content = states.load(run.checkpoints)
    parts = sorted(content["folder"].iterdir())
    assert len(parts) == 4  # two shares, their metadata, the checksums
    for part in parts:
        whole = part.read_bytes()
        for at in np.random.default_rng(0).integers(0, len(whole), 20):
            part.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(UserError, match=r"is damaged.*; delete those after step-0+4, which is whole") as caught:
                states.load(run.checkpoints)
            assert part.name in str(caught.value) or part.name == SUMS
        part.write_bytes(whole)
    with pytest.raises(UserError, match="does not fit this teacher"):
        states.begin_stage(task.teacher, run.config, task.plan, [*experts, *experts], 1, 0).load(content)
    for part in content["folder"].glob("*.distcp"):
        part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    with pytest.raises(UserError, match="is damaged") as caught:
        states.begin_stage(task.teacher, run.config, task.plan, experts, 1, 0).load(content)
    assert len(str(caught.value).splitlines()) == 1


def test_a_batch_that_does_not_share_out_is_one_line(monkeypatch):
    monkeypatch.setattr(parallel, "size", lambda: 2)
    with pytest.raises(UserError, match="batch = 3 does not share out evenly over 2 processes"):
        parallel.check_batch(3)


def test_neighbours_that_share_tokens_have_the_same_rows(monkeypatch):
    monkeypatch.setattr(parallel, "size", lambda: 4)
    monkeypatch.setattr(parallel, "_context", 1)
    parallel.share_tokens(2)
    rows = []
    for rank in range(4):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        rows.append(parallel.own_rows(6).tolist())
    assert rows == [[0, 1, 2], [0, 1, 2], [3, 4, 5], [3, 4, 5]]
    with pytest.raises(UserError, match="batch = 3 does not share out evenly over 2 groups of 2 processes"):
        parallel.check_batch(3)


def test_tokens_that_do_not_share_out_are_one_line(tmp_path):
    def refused(teacher, *settings):
        with pytest.raises(UserError) as caught:
            check_tokens(load_teacher(teacher), make_config("phased", teacher, None, settings), [False, True])
        return str(caught.value)

    wan = str(tiny.wan(tmp_path / "wan"))
    assert refused(wan, "context=3") == "context = 3 does not go into the 8 tokens of a sample"
    assert refused(wan, "context=8") == "context = 8 does not go into the 4 tokens of a sample"
    assert refused(wan, "context=2", "compile=true") == "context goes without compile; leave one of them out"
    assert "does not share out its tokens" in refused("mixture", "context=2")
    with pytest.raises(UserError, match="context = 2 does not go into 1 processes"):
        prepare(make_config("phased", wan, None, ["context=2"]))


@pytest.mark.slow
def test_the_command_under_torchrun(tmp_path):
    """One of the processes speaks, and one student comes of it."""
    run, settings = tmp_path / "run", ["--set", "generator_steps=3", "--set", "batch=4", "--out"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "pdmd"]

    def train(*words: object) -> subprocess.CompletedProcess:
        words = ("train", "--method", "phased", "--teacher", "mixture", *words, *settings, run)
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run([*command, *map(str, words)], env=env, capture_output=True, text=True, timeout=300)

    refused = train("--set", "context=2")
    assert refused.returncode != 0
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("pdmd: ")]
    assert line == "pdmd: context = 2: teacher mixture does not share out its tokens"
    assert not run.exists()
    done = train()
    assert done.returncode == 0, done.stderr
    assert load_model(str(run)).latents([""], [0], None).shape == (1, 2)
    assert states.checkpoints(run / "checkpoints")[-1].is_dir()
    assert done.stdout.count(str(run / "student")) == 1


@pytest.mark.slow
def test_networks_of_two_experts_in_two_processes(tmp_path):
    """Whole copies, adapters, and both, of a teacher whose rows go to either expert; rows shared out, or tokens."""
    tiny.wan_two(tmp_path / "wan")
    names = [name for name, (_, teacher, _) in several.RUNS.items() if teacher == "wan"]
    for name in names:
        several.go(several.begin(tmp_path, f"one-{name}", name))
    done = torchrun(tmp_path, *names)
    assert done.returncode == 0, done.stderr
    for name in names:
        same(tmp_path / f"two-{name}", tmp_path / f"one-{name}")
        x, y = (load_model(str(tmp_path / f"{n}-{name}")).latents(["a cross"], [0], None) for n in ("one", "two"))
        torch.testing.assert_close(x, y, rtol=0, atol=1e-3)
