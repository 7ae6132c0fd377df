"""Work in processes forked from this one, which has imported everything: killed at random, or refused by a full disk,
and started again until it is done.

PDMD_KILLS is the number of trials of each fault; `nox -s torture` makes 200.
"""

import itertools
import mmap
import multiprocessing
import os
import select
import signal
import socket
import subprocess
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import NoReturn

import cv2
import numpy as np
import torch
from tried import tell

from pdmd import parallel
from pdmd.benchmark.shards import Shard
from pdmd.errors import UserError

KILLS = int(os.environ.get("PDMD_KILLS", "2"))
DONE, KILLED, REFUSED = "done", "killed", "refused"
CHANGES = ("fsync", "replace", "rename", "unlink")  # of a folder, that a process may die before
PATIENCE = 120  # seconds for the rest of a group to end by itself
#: What a process is at -> the function, in its module, that it is in.
Places = Mapping[str, tuple[ModuleType, str]]
ELSEWHERE = "starting or ending"
#: Whether this process notes its place; of a group the first alone does.
first = True


class Process:
    """A forked process that does the work, the first of a group of its own. Before the `fatal`-th of CHANGES in the
    group it is killed: the group, or with `alone` the one process that was about to make it."""

    def __init__(
        self,
        work: Callable[[], object],
        fatal: int | None = None,
        alone: bool = False,
        places: Places = MappingProxyType({}),
    ) -> None:
        self.alive, held = os.pipe()  # `held` is open in every process of the group, and nowhere else
        self.noted = memoryview(mmap.mmap(-1, 16)).cast("Q")  # by the group: its changes, and its first one's place
        self.places = [ELSEWHERE, *places]
        self.id = os.fork()
        if self.id == 0:
            os.setpgid(0, 0)
            _arm(self.noted, fatal, alone)
            for number, (module, name) in enumerate(places.values(), start=1):
                setattr(module, name, _marked(getattr(module, name), self.noted, number))
            _end_with(work)
        os.close(held)
        with suppress(OSError):
            os.setpgid(self.id, self.id)

    @property
    def changes(self) -> int:
        """How many of CHANGES the group has made."""
        return self.noted[0]

    @property
    def place(self) -> str:
        """Where its first process is, or was when it died: in the innermost of its places."""
        return self.places[self.noted[1]]

    def kill(self) -> None:
        os.killpg(self.id, signal.SIGKILL)

    def end(self) -> str:
        """How it ended: DONE, KILLED or REFUSED, by an error of one line. Fails where it failed in another way, or a
        process of its group is left."""
        status = os.waitpid(self.id, 0)[1]
        while select.select([self.alive], [], [], PATIENCE)[0] and os.read(self.alive, 1):
            pass  # until no process of the group is left
        assert select.select([self.alive], [], [], 0)[0], "processes are left"
        os.close(self.alive)
        if os.WIFSIGNALED(status):
            return KILLED
        code = os.waitstatus_to_exitcode(status)
        assert code in (0, 2), "what the process wrote says why"
        return REFUSED if code else DONE


def _arm(noted: memoryview, fatal: int | None, alone: bool) -> None:
    """Have this process and its forks count CHANGES and die before the `fatal`-th. The count is not locked: two at once
    may count as one."""

    def armed(change):
        def call(*args, **options):
            before, noted[0] = noted[0], noted[0] + 1
            if before == fatal:
                os.kill(os.getpid(), signal.SIGKILL) if alone else os.killpg(0, signal.SIGKILL)
            return change(*args, **options)

        return call

    for name in CHANGES:
        setattr(os, name, armed(getattr(os, name)))


def _marked(function: Callable, noted: memoryview, place: int) -> Callable:
    def call(*args, **options):
        before = noted[1]
        if first:
            noted[1] = place
        result = function(*args, **options)  # where it raises, as another process died, the place stays
        if first:
            noted[1] = before
        return result

    return call


def _end_with(work: Callable[[], object]) -> NoReturn:
    """Do the work and end this process, with the exit code that the command line would have; 1 for a traceback."""
    code = 1
    try:
        torch.set_num_threads(1)  # a thread pool does not survive a fork
        cv2.setNumThreads(0)
        work()
        code = 0
    except (UserError, OSError) as error:  # what the command line makes one line of
        code = 2 if len(str(error).splitlines()) == 1 else 1
        print(f"refused: {error}", flush=True)
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def joined(count: int, work: Callable[[], object]) -> None:
    """The work in `count` processes that train together, forks of this one, which does as torchrun does: where one ends
    otherwise than it should the others are told to, and it dies as one of them was killed. Fails where any of them
    leaves a traceback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}

    def one(rank: int) -> None:
        global first
        first, os.environ["RANK"] = rank == 0, str(rank)
        with parallel.joined():
            work()

    left, codes = set(), set()
    for rank in range(count):
        left.add(os.fork())
        if 0 in left:
            _end_with(lambda rank=rank: one(rank))
    while left:
        other, status = os.wait()
        left.remove(other)
        codes.add(os.waitstatus_to_exitcode(status))
        for survivor in left if status else ():
            os.kill(survivor, signal.SIGTERM)
    assert codes <= {0, 2, -signal.SIGKILL, -signal.SIGTERM}, codes
    if -signal.SIGKILL in codes:
        os.kill(os.getpid(), signal.SIGKILL)
    if codes != {0}:
        raise UserError(f"the processes ended with {codes}")


def shared(count: int, work: Callable[[Shard], object]) -> None:
    """The work in `count` processes, as torchrun starts them: this one and forks of it, one of which fails all."""
    global first
    barrier = multiprocessing.get_context("fork").Barrier(count)
    others = []
    for rank in range(1, count):
        other = os.fork()
        if other == 0:
            code, first = 1, False
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
    process = Process(lambda: work(tmp_path / "whole"))
    assert process.end() == DONE
    return time.monotonic() - began, process.changes


def torture(
    work: Callable[[Path], object],
    check: Callable[[Path], None],
    tmp_path: Path,
    same: Callable,
    places: Places,
    *,
    together: bool = False,
) -> None:
    """Do the work in folder after folder until KILLS kills have been; `check` a folder after each, and whether what is
    there in the end is the `same` as in one that was left alone. Of processes at work `together` one dies alone in half
    of the kills before a change. Where each kill fell is told by the names of `places`."""
    longest, changes = whole(work, tmp_path)
    rng, kills, where = np.random.default_rng(KILLS), 0, dict.fromkeys([ELSEWHERE, *places], 0)
    expected = same(tmp_path / "whole")
    for trial in itertools.count():
        folder, ended = tmp_path / f"trial{trial}", ""
        while ended != DONE:
            by_time = rng.random() < 0.5
            fatal = None if by_time or kills >= KILLS else int(rng.integers(changes))
            process = Process(lambda folder=folder: work(folder), fatal, together and rng.random() < 0.5, places)
            if by_time and kills < KILLS:
                time.sleep(rng.uniform(0, longest))
                process.kill()
            ended = process.end()
            assert ended != REFUSED, "a killed run does not go on"
            if ended == KILLED:
                kills += 1
                where[process.place] += 1
            check(folder)
        assert same(folder) == expected
        if kills >= KILLS:
            break
    tell(trials=kills, runs=trial + 1, where=where)


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
