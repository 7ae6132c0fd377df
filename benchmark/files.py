"""Files written whole or not at all, and hashes of files."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from pdmd.errors import UserError


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary name in the same folder (same suffix), then rename it to `path`.

    An interrupted write leaves the old file as it was. Raises UserError where the disk refuses.
    """
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text whole or not at all."""
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8", newline="\n"))


def sha256(path: Path) -> str:
    """The sha256 of a file's bytes, as hexadecimal text."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
