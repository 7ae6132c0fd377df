"""The 1-D trajectories, the paper's Figure 2: exact, naive and full-interval targets (`pdmd.figure2`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from pdmd import figure2
from pdmd.files import write_text, write_whole

from .. import provenance
from .verdict import UNDECIDED, outcome, t_test
from .work import Work

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
    judged = [judge(further, nearer, found.from_flow[further], found.from_flow[nearer]) for further, nearer in PAIRS]
    lines = [
        f"| {one['ordering']} | x {one['ratio']:.2f} | {'–' if one['p'] is None else format(one['p'], '.3g')} "
        f"| **{one['verdict']}** |"
        for one in judged
    ]
    text = figure2.report(found).replace("    python -m pdmd.figure2\n", made_by(work))
    text += (
        "\n| further from the exact flow | by | p over training seeds | |\n|---|---|---|---|\n"
        + "\n".join(lines)
        + "\n"
    )
    write_text(path, text)
    content: dict[str, Any] = {
        "title": TITLE,
        "command": work.command,
        "provenance": provenance.record(),
        "seeds": seeds,
    }
    content |= {"n": figure2.N, "from_flow": found.from_flow, "from_full": found.from_full, "judged": judged}
    write_text(path.with_suffix(".json"), json.dumps(content, indent=1) + "\n")
    return path


def made_by(work: Work) -> str:
    return f"`{work.command}`, commit {provenance.commit_text()}.\n"


def judge(further: str, nearer: str, first: list[float], second: list[float]) -> dict[str, Any]:
    """Whether the first's distances are the larger ones: Student's test of their logarithms, paired by seed."""
    ratios = np.log(first) - np.log(second)
    p = t_test(ratios) if len(ratios) > 1 else None
    return {
        "ordering": f"{further} > {nearer}",
        "on": "distance from the exact flow",
        "ratio": float(np.exp(ratios.mean())),
        "p": p,
        "verdict": UNDECIDED if p is None else outcome(ratios.mean(), p),
    }
