"""Trainings and benchmarks killed at random moments and before random writes, or on a disk that is full, and started
again each time: in the end the same bytes as without."""

import json
import os
import resource
from contextlib import nullcontext
from pathlib import Path

import pytest
from forked import DONE, ELSEWHERE, KILLED, Process, joined, shared, starve, torture

from pdmd import files
from pdmd import state as states
from pdmd import train as trainer
from pdmd.benchmark import generate as generation
from pdmd.benchmark import provenance
from pdmd.benchmark import run as runner
from pdmd.benchmark.run import run_suite
from pdmd.benchmark.suites import get_suite
from pdmd.config import make_config
from pdmd.errors import UserError
from pdmd.run import Run
from pdmd.train import prepare, train

#: Where a kill may fall: the innermost of these that the first process was in.
TRAINING = {
    "training": (trainer, "_train"),
    "setting up a phase": (states, "begin_stage"),
    "loading a checkpoint": (states, "load"),
    "saving a checkpoint": (states, "save"),
    "writing the student": (trainer, "finish"),
}
BENCHMARK = {
    "making samples": (runner, "make_samples"),
    "writing media": (generation, "_store"),
    "joining manifests": (generation, "_gather"),
    "measuring": (runner, "score_folder"),
    "writing the result": (runner, "write_report"),
}
EVERY = 2  # steps a checkpoint
CONFIG = make_config(
    "phased",
    "mixture",
    None,
    f"generator_steps=12 batch=8 pool=16 checkpoint_every={EVERY} probe_every=5 prompt_count=8 ema=0.9".split(),
)


@pytest.fixture(scope="module")
def training():
    """What trains CONFIG into a folder, or goes on there."""
    task = prepare(CONFIG)
    task.teacher.network()  # fitted once, for all processes

    def work(folder: Path) -> None:
        try:
            run = Run.reopen(folder)
        except UserError:  # it was killed before its config was written
            run = Run.create(folder, CONFIG)
            train(run, task, False, lambda *_: None, lambda text: None)
        else:
            if not (run.student / "student.json").is_file():
                train(run, task, True, lambda *_: None, lambda text: None)

    return work


def loads(folder: Path) -> None:
    """What a training has saved loads, and at most one interval is lost."""
    saved = states.load(folder / "checkpoints")["step"] if states.checkpoints(folder / "checkpoints") else 0
    if (folder / "metrics.jsonl").exists():
        lines = [line for line in (folder / "metrics.jsonl").read_text().splitlines(True) if line.endswith("\n")]
        assert not lines or json.loads(lines[-1])["step"] - saved <= EVERY


def trained(folder: Path):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file() and "events" not in p.name)
    weights = {path.name: path.read_bytes() for path in sorted((folder / "student").iterdir())}
    return weights, names, [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.fixture
def measuring(make_renderer, monkeypatch):
    """What benchmarks a model into a folder, or goes on there, in so many processes."""
    monkeypatch.setattr(provenance, "git_commit", lambda: None)  # a commit made meanwhile is another one
    suite = get_suite("motion")

    def work(folder: Path, count: int = 1) -> None:
        def share(shard) -> None:
            run_suite(suite, [make_renderer()], folder, limit=2, batch_size=1, quiet=True, shard=shard)

        shared(count, share)

    return work


def measured(folder: Path):
    """The bytes of every file, without the time of day that result.json and the reports give: in result.json that is
    `provenance.created`, the one field that is a date or a wall time."""
    made = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (result,) = (content for path, content in made.items() if path.name == "result.json")
    created = json.loads(result)["provenance"]["created"].encode()
    assert result.count(created) == 1
    return {path: content.replace(created, b"") for path, content in made.items()}


def test_a_kill_is_told_of_where_it_fell(tmp_path):
    def work() -> None:
        files.write_bytes(tmp_path / "a", b"")  # fsync, replace, unlink
        os.rename(tmp_path / "a", tmp_path / "b")

    for fatal, ended, place in ((2, KILLED, "writing"), (3, KILLED, ELSEWHERE), (4, DONE, ELSEWHERE)):
        process = Process(work, fatal, places={"writing": (files, "write_bytes")})
        assert (process.end(), process.place) == (ended, place)


@pytest.mark.fault("training killed")
def test_a_training_killed_anywhere_ends_in_the_same_weights(training, tmp_path):
    torture(training, loads, tmp_path, trained, TRAINING)


@pytest.mark.fault("training of two processes killed")
def test_a_training_of_two_processes_killed_anywhere_ends_in_the_same_weights(training, tmp_path):
    """Both at once, or one of them, which ends the other; their checkpoints are folders."""
    torture(lambda folder: joined(2, lambda: training(folder)), loads, tmp_path, trained, TRAINING, together=True)
    assert all(path.is_dir() for path in (tmp_path / "whole" / "checkpoints").glob("step-*"))


@pytest.mark.fault("benchmark killed")
def test_a_benchmark_killed_anywhere_ends_in_the_same_result(measuring, tmp_path):
    torture(measuring, lambda folder: None, tmp_path, measured, BENCHMARK)


@pytest.mark.fault("benchmark of two processes killed")
def test_a_benchmark_of_two_processes_killed_anywhere_ends_in_the_same_result(measuring, tmp_path):
    """Killed, too, while one of them joins what both have made."""
    torture(lambda folder: measuring(folder, 2), lambda folder: None, tmp_path, measured, BENCHMARK)


@pytest.mark.fault("more processes than cores")
def test_more_processes_than_cores_or_samples_make_the_same_result(measuring, tmp_path):
    for name, count in (("one", 1), ("many", 4 * (os.cpu_count() or 1) + 1)):
        assert Process(lambda name=name, count=count: measuring(tmp_path / name, count)).end() == DONE
    assert measured(tmp_path / "many") == measured(tmp_path / "one")


@pytest.mark.fault("training on a full disk")
def test_a_training_on_a_disk_that_fills_anywhere_ends_in_the_same_weights(training, tmp_path, small_disk):
    starve(training, loads, tmp_path, small_disk, trained)


@pytest.mark.fault("benchmark on a full disk")
def test_a_benchmark_on_a_disk_that_fills_anywhere_ends_in_the_same_result(measuring, tmp_path, small_disk):
    starve(measuring, lambda folder: None, tmp_path, small_disk, measured)


@pytest.mark.fault("training on a full disk")
def test_a_checkpoint_that_finds_no_room_says_so(tmp_path):
    """Where no disk may be mounted: a file may grow to 100,000 bytes, which no checkpoint fits into."""
    task = prepare(CONFIG)
    task.teacher.network()

    def work(folder: Path, room: int) -> None:
        begun = (folder / "config.json").exists()
        run = Run.reopen(folder) if begun else Run.create(folder, CONFIG)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        full = pytest.raises(UserError, match="File too large; make room and use --resume")
        with nullcontext() if room == resource.RLIM_INFINITY else full:
            train(run, task, begun, lambda *_: None, lambda text: None)

    for name, rooms in (("whole", [-1]), ("full", [100_000, 100_000, -1])):
        for room in rooms:
            assert Process(lambda name=name, room=room: work(tmp_path / name, room)).end() == DONE
    whole, full = tmp_path / "whole" / "student", tmp_path / "full" / "student"
    assert all((full / path.name).read_bytes() == path.read_bytes() for path in whole.iterdir())
