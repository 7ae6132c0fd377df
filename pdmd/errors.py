"""The one exception that the command line turns into a line and exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: The exit code after Ctrl-C and SIGTERM.
INTERRUPTED = 130


class UserError(Exception):
    """Bad input: one line that says what, where and what to do. The command line prints it and exits 2."""


class Stopped(BaseException):
    """Ctrl-C or SIGTERM. Not KeyboardInterrupt, which typer turns into an exit code without a line."""


def suggest(name: str, known: Iterable[str]) -> str:
    """A clause naming the nearest known name, or all of them where none is near."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
