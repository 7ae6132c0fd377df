"""`pdmd reproduce`: which tables there are, in the order in which all are made, and what they found in one list."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from pdmd.errors import INTERRUPTED, UserError, suggest

from .. import provenance

ALL = "all"
WHAT = ("figure2", "modes", "table2", "table3", "target", "intervals", "phases", "freeze")
FURTHER = ("longer", "power")  # hours more, on what these leave undecided: only by name


def reproduce(
    what: Annotated[str, typer.Argument(metavar=f"[{'|'.join((*WHAT, ALL, *FURTHER))}]", show_default=False)],
    teacher: Annotated[str, typer.Option(help="sprites, or a folder with another of its world.")] = "sprites",
    i2v_teacher: Annotated[str, typer.Option(help="The same for image to video.")] = "sprites-i2v",
    seeds: Annotated[
        int | None, typer.Option(help="Training seeds of every student.  \\[each table's own, mostly 3]")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many prompts of a suite.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value for every student; lr=RATE takes the place of the sweep; repeatable."),
    ] = None,
    runs: Annotated[Path, typer.Option(help="The folder of students and samples.")] = Path("runs/paper"),
    out: Annotated[Path, typer.Option(help="The folder of the tables.")] = Path("reports/paper"),
) -> None:
    """Test the paper's claims on the embedded world; what is finished already is not made again.

    Hours on a laptop: the time is printed first. Stopped or killed, the same command goes on.
    """
    from pdmd.train import Interrupted

    from . import modes
    from .expected import expected
    from .making import prepare
    from .summary import summary
    from .tables import MAKE, TABLES
    from .work import Work

    if what not in (known := (*WHAT, ALL, *FURTHER)):
        raise UserError(f"nothing to reproduce is called {what!r}: {suggest(what, known)}")
    for name, number in (("seeds", seeds), ("limit", limit)):
        if number is not None and number < 1:
            raise UserError(f"--{name} {number}: at least 1")
    work = Work(teacher, i2v_teacher, seeds, limit, tuple(set_ or ()), runs, out, provenance.command())
    wanted = WHAT if what == ALL else (what,)
    tables = [TABLES[name] for name in wanted if name in TABLES]
    apart = modes.left(work) if modes.NAME in wanted else []
    print(f"{what}: {expected(work, tables, apart) if tables or apart else 'about a minute'}", flush=True)
    began = time.monotonic()
    try:
        for name in wanted:
            if tables and name == tables[0].name:
                prepare(tables, work)  # of all of them, so that several processes have much to share
            print(MAKE[name](work), flush=True)
    except Interrupted as stop:
        print(f"interrupted at step {stop}; the same command goes on", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    print(summary(out))
    print(f"{(time.monotonic() - began) / 60:.0f} minutes")
