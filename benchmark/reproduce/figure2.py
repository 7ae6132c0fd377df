"""The 1-D trajectories, the paper's Figure 2: exact, naive and full-interval targets (`pdmd.figure2`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pdmd import figure2
from pdmd.files import write_text, write_whole

from .. import provenance
from ..report import grid
from .verdict import ratios
from .work import Work
from .writing import number

SEEDS = 3
TITLE = "The 1-D check"
#: The first is to lie further from the exact flow than the second.
PAIRS = (("naive", "exact"), ("naive", "full"))


def make(work: Work) -> Path:
    """Train and compare; the path of figure2.md."""
    seeds = list(work.seeds_of(SEEDS))
    found = figure2.check(seeds)
    path = work.out / "figure2.md"
    write_whole(path.with_suffix(".png"), lambda part: figure2.draw(found, part))
    judged = ratios(found.from_flow, PAIRS, "distance from the exact flow")
    rows = [(one["ordering"], f"x {one['ratio']:.2f}", number(one["p"]), f"**{one['verdict']}**") for one in judged]
    table = grid(("further from the exact flow", "by", "p over training seeds, Holm", ""), rows)
    made_by = f"`{work.command}`, commit {provenance.commit_text()}."
    write_text(path, f"{figure2.report(found, made_by, seeds)}\n{table}\n")
    content: dict[str, Any] = {
        "title": TITLE,
        "command": work.command,
        "provenance": provenance.record(),
        "seeds": seeds,
    }
    content |= {"n": figure2.N, "from_flow": found.from_flow, "from_full": found.from_full, "judged": judged}
    write_text(path.with_suffix(".json"), json.dumps(content, indent=1) + "\n")
    return path
