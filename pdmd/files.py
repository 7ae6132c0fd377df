"""Files written whole or not at all, and hashes of files."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from pdmd.errors import UserError

PART = ".*.part[0-9]*"  # the temporary names, as a pattern


def write_whole(path: Path, write: Callable[[Path], object], advice: str = "") -> None:
    """Call `write` with a temporary name in the same folder (same suffix), then rename it to `path`.

    An interrupted write leaves the old file as it was, and so does a killed one, with its PART beside it. Makes the
    folder. Raises UserError where the disk refuses, ending on `advice`.
    """
    part = path.with_name(f".{path.stem}.part{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        with part.open("rb+") as f:
            os.fsync(f.fileno())
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}{advice and f'; {advice}'}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def write_bytes(path: Path, content: bytes, advice: str = "") -> None:
    """Write bytes whole or not at all."""
    write_whole(path, lambda part: part.write_bytes(content), advice)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` to fill; it becomes `path`, unless something is there by then."""
    part = path.with_name(f".{path.name}.part{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        yield part
        if not path.exists():
            part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def sha256(path: Path) -> str:
    """The sha256 of a file's bytes, as hexadecimal text."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
