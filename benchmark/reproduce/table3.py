"""Motion, the paper's Table 3: 220 prompts of text to video, 220 pairs of image to video; and apart where the text
leaves the motion open, which is where it can be lost."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from typing import Any

from scipy import stats

from pdmd.sprites import grammar

from ..report import grid
from ..stats import holm
from . import verdict
from .measure import FLOW_READ, differences, mean, values
from .table import BASE, MOTION, Done, Part, Table
from .work import DMD, PHASED, SGTS, Work
from .writing import again, number

ROWS = {"dmd": DMD, "sgts": SGTS, "phased": PHASED}
OPEN, STATED = "leaves the motion open", "states the motion"


def more(done: Sequence[Done], work: Work) -> tuple[str, dict[str, Any]]:
    """The same apart for prompts that leave the motion open and prompts that state it, and whether the lead in flow is
    another one there."""
    texts, found = [], []
    for one in done:
        prompts = one.sides[BASE][0].first("prompt")
        is_open = {key for key, text in prompts.items() if "motion" not in grammar.parse(text)}
        groups = {OPEN: is_open, STATED: prompts.keys() - is_open}
        for group, ids in ((group, ids) for group, ids in groups.items() if ids):
            title = f"{one.part.title}, where the text {group}"
            text, judged = again(one, one.part, title, ids, f"n = {len(ids)} prompts.")
            texts.append(text)
            found += judged
        if all(groups.values()) and FLOW_READ in one.metrics:
            title = f"{one.part.title}: the lead in flow where the text {OPEN} over that where it {STATED}"
            rows = apart(one, groups[OPEN], groups[STATED])
            cells = [
                (r["ordering"], f"x {r['ratio']:.3f}", number(r["p"]), f"**{r['verdict']}** {r['why']}") for r in rows
            ]
            texts.append(f"## {title}\n\n{grid(('', FLOW_READ, 'p, Holm', ''), cells)}\n")
            found += [{"part": title} | row for row in rows]
    return "\n".join(texts), {"judged": found}


def apart(one: Done, ids: Container[str], others: Container[str]) -> list[dict[str, Any]]:
    """Whether the lead in flow of each ordering is larger among some prompts than among others: Welch's test over
    prompts, Student's over training seeds, the larger p of both, Holm over the orderings; at equal fidelity in both. An
    ordering that has no legible clips among one of them is left out."""
    pairs, logs, p_values, reasons = [], [], [], []
    for pair in (pair for pair in one.part.orderings if "dmd" not in pair):
        lead, reason = [], ""
        for group in (ids, others):
            row = {label: values(one.sides[label], FLOW_READ, group) for label in pair}
            lead.append(differences(FLOW_READ, row[pair[0]], row[pair[1]]))
            f = [mean(values(one.sides[label], "fidelity", group)) for label in (*pair, BASE)]
            reason = reason or verdict.unequal(f[0], f[1], f[2], pair[0] == BASE)
        if not all(x.size for x in lead):
            continue
        over_seeds, p = lead[0].mean(1) - lead[1].mean(1), None
        if len(over_seeds) > 1 and min(x.shape[1] for x in lead) > 1:
            welch = stats.ttest_ind(lead[0].mean(0), lead[1].mean(0), equal_var=False).pvalue
            p = max(float(welch), verdict.t_test(over_seeds))
        pairs.append(pair)
        logs.append(float(over_seeds.mean()))
        p_values.append(p)
        reasons.append(f"({verdict.UNEQUAL}: {reason})" if reason else "")
    steps = holm([1.0 if p is None else p for p in p_values], verdict.ALPHA)
    return [
        {
            "ordering": f"{pair[0]} > {pair[1]}",
            "on": FLOW_READ,
            "ratio": math.exp(log),
            "p": None if p is None else step.adjusted,
            "verdict": verdict.UNDECIDED if why else verdict.outcome(log, step.adjusted),
            "why": why,
        }
        for pair, log, p, step, why in zip(pairs, logs, p_values, steps, reasons, strict=True)
    ]


TABLE = Table(
    "table3",
    "Motion: how much of it is left",
    parts=(
        Part(
            "Text to video",
            "motion",
            ROWS,
            MOTION,
            (("phased", "sgts"), (BASE, "phased"), (BASE, "sgts"), (BASE, "dmd")),
        ),
        Part("Image to video", "motion-i2v", ROWS, MOTION, (("phased", "sgts"), (BASE, "sgts")), i2v=True),
    ),
    note=(
        "The paper's orderings: phased has more motion than sgts, and the base of text to video than all. `flow_read` "
        "is the true flow as the embedded world's reader sees it, the objects' speed times their share of the frame; "
        "those in `_dis` are estimated. Image to video takes the learning rates of text to video."
    ),
    more=more,
)
