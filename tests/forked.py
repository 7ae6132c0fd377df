"""Work in processes forked from this one, which has imported everything: killed at random, or refused by a full disk,
and started again until it is done.

PDMD_KILLS is the number of trials of each fault; `nox -s torture` makes 200.
"""

import itertools
import multiprocessing
import os
import signal
import subprocess
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import torch
from tried import tell

from pdmd.benchmark.shards import Shard
from pdmd.errors import UserError

KILLS = int(os.environ.get("PDMD_KILLS", "2"))
DONE, KILLED, REFUSED = "done", "killed", "refused"
CHANGES = ("fsync", "replace", "rename", "unlink")  # of a folder, that a process may die before


class Process:
    """A forked process that does the work, the first of a group of its own. It kills its group before the `fatal`-th
    of CHANGES, and writes how many there were into `count`."""

    def __init__(self, work: Callable[[], object], fatal: int = -1, count: Path | None = None) -> None:
        self.alive, held = os.pipe()  # `held` is open in every process of the group, and nowhere else
        self.id = os.fork()
        if self.id == 0:
            os.setpgid(0, 0)
            _work(work, fatal, count)
        os.close(held)
        with suppress(OSError):
            os.setpgid(self.id, self.id)

    def kill(self) -> None:
        os.killpg(self.id, signal.SIGKILL)

    def end(self) -> str:
        """How it ended: DONE, KILLED or REFUSED, by an error of one line. Fails where it failed in another way."""
        status = os.waitpid(self.id, 0)[1]
        while os.read(self.alive, 1):
            pass  # until no process of the group is left
        os.close(self.alive)
        if os.WIFSIGNALED(status):
            return KILLED
        code = os.waitstatus_to_exitcode(status)
        assert code in (0, 2), "what the process wrote says why"
        return REFUSED if code else DONE


def _work(work: Callable[[], object], fatal: int, count: Path | None) -> None:
    code = 1
    try:
        torch.set_num_threads(1)  # a thread pool does not survive a fork
        cv2.setNumThreads(0)
        calls = itertools.count()

        def armed(change):
            def call(*args, **options):
                if next(calls) == fatal:
                    os.killpg(0, signal.SIGKILL)
                return change(*args, **options)

            return call

        for name in CHANGES:
            setattr(os, name, armed(getattr(os, name)))
        work()
        if count:
            count.write_text(str(next(calls)))
        code = 0
    except (UserError, OSError) as error:  # what the command line makes one line of
        code = 2 if len(str(error).splitlines()) == 1 else 1
        print(f"refused: {error}", flush=True)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def shared(count: int, work: Callable[[Shard], object]) -> None:
    """The work in `count` processes, as torchrun starts them: this one and forks of it, one of which fails all."""
    barrier = multiprocessing.get_context("fork").Barrier(count)
    others = []
    for rank in range(1, count):
        other = os.fork()
        if other == 0:
            code = 1
            try:
                work(Shard(rank, count, barrier.wait))
                code = 0
            except BaseException:
                traceback.print_exc()
                barrier.abort()
            finally:
                os._exit(code)
        others.append(other)
    work(Shard(0, count, barrier.wait))
    assert not any(os.waitpid(other, 0)[1] for other in others)


def whole(work: Callable[[Path], object], tmp_path: Path) -> tuple[float, int]:
    """Do the work into tmp_path/whole, left alone; returns its seconds and how often it changed a folder."""
    began = time.monotonic()
    assert Process(lambda: work(tmp_path / "whole"), count=tmp_path / "count").end() == DONE
    return time.monotonic() - began, int((tmp_path / "count").read_text())


def torture(work: Callable[[Path], object], check: Callable[[Path], None], tmp_path: Path, same: Callable) -> None:
    """Do the work in folder after folder until KILLS kills have been; `check` a folder after each, and whether what is
    there in the end is the `same` as in one that was left alone."""
    longest, changes = whole(work, tmp_path)
    rng, kills = np.random.default_rng(KILLS), 0
    expected = same(tmp_path / "whole")
    for trial in itertools.count():
        folder, ended = tmp_path / f"trial{trial}", ""
        while ended != DONE:
            by_time = rng.random() < 0.5
            fatal = -1 if by_time or kills >= KILLS else int(rng.integers(changes))
            process = Process(lambda folder=folder: work(folder), fatal)
            if by_time and kills < KILLS:
                time.sleep(rng.uniform(0, longest))
                process.kill()
            ended = process.end()
            assert ended != REFUSED, "a killed run does not go on"
            kills += ended == KILLED
            check(folder)
        assert same(folder) == expected
        if kills >= KILLS:
            break
    tell(trials=kills, runs=trial + 1)


def starve(work: Callable[[Path], object], check: Callable[[Path], None], tmp_path: Path, disk: Path, same: Callable):
    """Do the work on a disk on which there is room for but a random part of what it takes, KILLS times, each time again
    with room; `check` and `same` as in `torture`."""
    whole(work, tmp_path)
    expected = same(tmp_path / "whole")
    need = sum(-(-p.stat().st_size // 4096) * 4096 for p in (tmp_path / "whole").rglob("*") if p.is_file())
    rng, refused = np.random.default_rng(KILLS), 0
    for trial in itertools.count():
        folder, ballast, ended = disk / f"trial{trial}", disk / "ballast", ""
        while ended != DONE:
            fill(ballast, int(rng.uniform(0, need)) if refused < KILLS else None)
            ended = Process(lambda folder=folder: work(folder)).end()
            fill(ballast, None)
            refused += ended == REFUSED
            check(folder)
            if ended == REFUSED and rng.random() < 0.5:  # else what is there meets a full disk once more
                ended = Process(lambda folder=folder: work(folder)).end()
                assert ended == DONE, "with room again it does not go on"
        assert same(folder) == expected
        subprocess.run(["rm", "-rf", str(folder)], check=True)
        if refused >= KILLS:
            break
    tell(trials=refused, runs=trial + 1)


def fill(ballast: Path, room: int | None) -> None:
    """Leave so many bytes of a disk free; None: all."""
    ballast.unlink(missing_ok=True)
    if room is not None:
        free = os.statvfs(ballast.parent)
        with ballast.open("wb") as f:
            os.posix_fallocate(f.fileno(), 0, max(1, free.f_bavail * free.f_bsize - room))
