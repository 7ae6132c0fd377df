"""Training and benchmark killed by SIGKILL again and again, at random moments and before random writes, and started
again each time: in the end the same bytes as without.

PDMD_KILLS is the number of kills of each; `nox -s torture` makes 200. Processes are forked from this one, which has
imported everything.
"""

import itertools
import json
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pdmd import state as states
from pdmd.benchmark import provenance
from pdmd.benchmark.run import run_suite
from pdmd.benchmark.suites import get_suite
from pdmd.config import make_config
from pdmd.errors import UserError
from pdmd.run import Run
from pdmd.train import prepare, train

KILLS = int(os.environ.get("PDMD_KILLS", "3"))
EVERY = 2  # steps a checkpoint
CONFIG = make_config(
    "phased",
    "mixture",
    None,
    f"generator_steps=12 batch=8 pool=16 checkpoint_every={EVERY} probe_every=5 prompt_count=8 ema=0.9".split(),
)


def start(work: Callable[[], object], fatal: int = -1, count: Path | None = None) -> int:
    """A forked process that does the work; it kills itself before the `fatal`-th change of a folder, and writes how
    many there were into `count`."""
    process = os.fork()
    if process:
        return process
    try:
        torch.set_num_threads(1)  # a thread pool does not survive a fork
        cv2.setNumThreads(0)
        calls = itertools.count()

        def armed(change):
            def call(*args, **options):
                if next(calls) == fatal:
                    os.kill(os.getpid(), signal.SIGKILL)
                return change(*args, **options)

            return call

        for name in ("fsync", "replace", "rename", "unlink"):
            setattr(os, name, armed(getattr(os, name)))
        work()
        if count:
            count.write_text(str(next(calls)))
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def end(process: int) -> bool:
    """Whether it came to its end, not to ours. Fails where it failed by itself."""
    status = os.waitpid(process, 0)[1]
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0, "a killed run does not go on"
    return not os.WIFSIGNALED(status)


def torture(work: Callable[[Path], object], check: Callable[[Path], None], tmp_path: Path, same: Callable) -> None:
    """Do the work in folder after folder until KILLS kills have been; `check` a folder after each, and whether what is
    there in the end is the `same` as in one that was left alone."""
    began = time.monotonic()
    assert end(start(lambda: work(tmp_path / "whole"), count=tmp_path / "count"))
    longest, changes = time.monotonic() - began, int((tmp_path / "count").read_text())
    rng, kills = np.random.default_rng(KILLS), 0
    for trial in itertools.count():
        folder, done = tmp_path / f"trial{trial}", False
        while not done:
            if kills >= KILLS:
                done = end(start(lambda folder=folder: work(folder)))
                continue
            if by_time := rng.random() < 0.5:
                process = start(lambda folder=folder: work(folder))
                time.sleep(rng.uniform(0, longest))
                os.kill(process, signal.SIGKILL)
            else:
                process = start(lambda folder=folder: work(folder), fatal=int(rng.integers(changes)))
            done = end(process)
            kills += not done
            check(folder)
            print(f"kill {kills}, {'by time' if by_time else 'before a write'}, trial {trial}", flush=True)
        assert same(folder) == same(tmp_path / "whole")
        if kills >= KILLS:
            return


def test_a_training_killed_anywhere_ends_in_the_same_weights(tmp_path):
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

    def check(folder: Path) -> None:
        """What is saved loads, and at most one interval is lost."""
        saved = states.load(folder / "checkpoints")["step"] if states.checkpoints(folder / "checkpoints") else 0
        if (folder / "metrics.jsonl").exists():
            lines = [line for line in (folder / "metrics.jsonl").read_text().splitlines(True) if line.endswith("\n")]
            assert not lines or json.loads(lines[-1])["step"] - saved <= EVERY

    def same(folder: Path):
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        names = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file() and "events" not in p.name)
        weights = {path.name: path.read_bytes() for path in sorted((folder / "student").iterdir())}
        return weights, names, [{k: v for k, v in row.items() if k != "seconds"} for row in rows]

    torture(work, check, tmp_path, same)


def test_a_benchmark_killed_anywhere_ends_in_the_same_result(tmp_path, make_renderer, monkeypatch):
    monkeypatch.setattr(provenance, "git_commit", lambda: None)  # a commit made meanwhile is another one
    suite = get_suite("motion")

    def work(folder: Path) -> None:
        run_suite(suite, [make_renderer()], folder, limit=4, batch_size=2, quiet=True)

    def same(folder: Path):
        files = {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        (name,) = [name for name in files if name.name == "result.json"]
        result = json.loads(files.pop(name))
        del result["provenance"]["created"]  # the time of day, the one thing that may differ
        return json.dumps(result), {name: content for name, content in files.items() if "report" not in name.name}

    torture(work, lambda folder: None, tmp_path, same)


def test_a_disk_that_fills_loses_nothing(tmp_path):
    """A file may grow to 100,000 bytes, which no checkpoint fits into; with room again the run goes on."""
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
            assert end(start(lambda name=name, room=room: work(tmp_path / name, room)))
    whole, full = tmp_path / "whole" / "student", tmp_path / "full" / "student"
    assert all((full / path.name).read_bytes() == path.read_bytes() for path in whole.iterdir())
