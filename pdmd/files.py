"""Files written whole or not at all, and hashes of files."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any

from pdmd.errors import UserError, first_line

PART = ".*.part[0-9]*"  # the temporary names, as a pattern
LOCK = ".lock"
SUMS = "SHA256SUMS"  # of a folder's files, as `sha256sum` writes it


def claim(folder: Path) -> IO[bytes]:
    """An open file that keeps other processes out of a folder, which is made, until it is closed; the system closes it
    with its process, however that ends. What killed processes left half-written there is removed. Raises UserError
    where another process has the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("ab")
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror or error}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise UserError(f"another process is at work in {folder}; wait for its end, or give another --out") from None
    except OSError:
        pass  # a file system without locks
    for part in list(folder.rglob(PART)):
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)
    return lock


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
    """A temporary folder beside `path` to fill; it becomes `path`. Raises FileExistsError where something is there by
    then."""
    part = path.with_name(f".{path.name}.part{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        yield part
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def sha256(path: Path) -> str:
    """The sha256 of a file's bytes, as hexadecimal text."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write_sums(listing: Path, *names: str) -> None:
    """Write into `listing`, as `sha256sum` does, the sha256 of the named files beside it, or else of all there and
    below."""
    write_text(listing, _sums(listing, names))


def check_sums(listing: Path, *names: str) -> None:
    """Raises UserError, naming the file, where files are not those that `write_sums` found; those are shipped."""
    try:
        path = changed(listing, *names)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{listing.parent} is damaged: {first_line(error)}; install pdmd again") from None
    if path:
        raise UserError(f"{path} is damaged: its checksum is not that of {listing}; install pdmd again")


def seal(folder: Path, *but: str) -> None:
    """Write SUMS into a folder: of all files in it and below but those named. Raises OSError."""
    (folder / SUMS).write_text(sums(folder, _below(folder, SUMS, *but)), encoding="utf-8")


def check_seal(folder: Path) -> None:
    """Raises UserError, naming the file, where one that SUMS lists is not as `seal` found it. A folder without SUMS is
    other tools', and passes."""
    listing = folder / SUMS
    if not listing.is_file():
        return
    path: Path | None = listing
    with contextlib.suppress(OSError, UnicodeDecodeError):
        names = [line.partition("  ")[2] for line in listing.read_text(encoding="utf-8").splitlines()]
        lost = next((folder / name for name in names if not os.path.isfile(folder / name)), None)
        path = lost or changed(listing, *names)
    if path:
        raise UserError(
            f"{path} is damaged: its checksum is not that of {listing}; export or train the student again, or delete "
            f"{SUMS} where it is you who changed it"
        )


def changed(listing: Path, *names: str) -> Path | None:
    """The first file that is not what `write_sums` found; None where all are. Raises OSError and UnicodeDecodeError
    where one cannot be read."""
    stated, actual = listing.read_text(encoding="utf-8"), _sums(listing, names)
    for line, other in zip_longest(stated.splitlines(True), actual.splitlines(True), fillvalue=""):
        if line != other:
            return listing.parent / (other or line).rstrip("\n").partition("  ")[2]
    return None


def _sums(listing: Path, names: Sequence[str]) -> str:
    return sums(listing.parent, names or _below(listing.parent, listing.name))


def _below(folder: Path, *but: str) -> list[str]:
    """The files in a folder and below, but hidden ones and those named."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("[!.]*") if path.is_file())
    return sorted(name for name in found if name not in but)


def sums(folder: Path, names: Iterable[str]) -> str:
    """A line a file, as `sha256sum` does."""
    return "".join(f"{sha256(folder / name)}  {name}\n" for name in names)


def without_path(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What a model is, wherever it lies: its identity without the path."""
    return {key: value for key, value in identity.items() if key != "path"}


def parse_json(text: str | bytes) -> Any:
    """What JSON says. Raises ValueError for what is none: NaN and infinity, half a surrogate pair, numbers of
    thousands of digits, and brackets too deep are none either."""
    try:
        content = json.loads(text)
        json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("its brackets are too deep") from None
    return content


def parse_toml(text: str) -> dict[str, Any]:
    """What TOML says. Raises ValueError for what is none."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("its brackets are too deep") from None
