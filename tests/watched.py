"""One input under watch: what reading it may raise, how long it may take, and where it may write."""

import contextlib
import faulthandler
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pdmd.errors import UserError

SECONDS = 10  # of CPU time
#: Of the clock, which goes on while the machine does something else: for what waits, and what hangs inside of C.
AT_ALL = 12 * SECONDS
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
#: The audit events that change a folder: where in their arguments the paths are, and where the folder's descriptors.
CHANGES = {
    "os.rename": ((0, 1), (2, 3)),
    "os.mkdir": ((0,), (2,)),
    "os.remove": ((0,), (1,)),
    "os.rmdir": ((0,), (1,)),
    "os.symlink": ((1,), (2,)),
    "os.link": ((1,), (3,)),
    "os.truncate": ((0,), ()),
}
#: Where Python and the project keep what they may make again.
OWN = ("__pycache__", os.devnull)

#: Where a traceback goes when the process is ended; pytest takes the standard error for itself.
terminal = os.dup(2)
#: The folders that what is read may write into; none: all.
folders: list[Path] = []
_watching = False
_outside: list[str] = []


def _written(event: str, arguments: tuple) -> list[tuple[object, int]]:
    """What an audit event writes to: paths, each with the descriptor of the folder that it is in, or -1."""
    if event == "open":
        path, _, flags = arguments
        return [(path, -1)] if flags & WRITES else []
    paths, places = CHANGES.get(event, ((), ()))
    ids = [arguments[i] for i in places] or [-1] * len(paths)
    return [(arguments[i], folder) for i, folder in zip(paths, ids, strict=True)]


def _audit(event: str, arguments: tuple) -> None:
    if not _watching:
        return
    for path, folder in _written(event, arguments):
        if isinstance(path, int):
            continue  # a file that is open
        name = os.fsdecode(path)  # type: ignore[arg-type]
        if folder != -1:
            name = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), name)
        name = os.path.realpath(name)
        if not any(own in name for own in OWN) and not any(Path(name).is_relative_to(kept) for kept in folders):
            _outside.append(f"{event} {name}")


sys.addaudithook(_audit)


@contextlib.contextmanager
def writing_inside() -> Iterator[None]:
    """Fails where Python writes elsewhere than into `folders`. What C libraries write is seen by `listed` alone."""
    global _watching
    _outside.clear()
    _watching = bool(folders)
    try:
        yield
    finally:
        _watching = False
    assert not _outside, f"it writes elsewhere: {_outside}"


def listed(folder: Path) -> dict[str, tuple[int, int] | None]:
    """What lies in a folder: files with their size and time, folders."""
    found = {}
    for entry in os.scandir(folder):
        about = entry.stat(follow_symlinks=False)
        found[entry.name] = None if entry.is_dir() else (about.st_size, about.st_mtime_ns)
    return found


def refused_or_read(read: Callable[[], object]) -> None:
    """Anything but UserError fails the test, and so do SECONDS of CPU time; AT_ALL seconds end the process, with its
    traceback, whatever it is in."""
    signal.signal(signal.SIGPROF, lambda *_: pytest.fail("an input hangs it"))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    faulthandler.dump_traceback_later(AT_ALL, exit=True, file=terminal)
    try:
        with writing_inside(), contextlib.suppress(UserError):
            read()
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_PROF, 0)
