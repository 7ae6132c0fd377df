"""Motion, the paper's Table 3: 220 prompts of text to video, 220 pairs of image to video; and apart where the text
leaves the motion open, which is where it can be lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pdmd.sprites import grammar

from .table import BASE, MOTION, Done, Part, Table, judge
from .work import DMD, PHASED, SGTS, Work
from .writing import figures, orderings, plain

ROWS = {"dmd": DMD, "sgts": SGTS, "phased": PHASED}


def more(done: Sequence[Done], work: Work) -> tuple[str, dict[str, Any]]:
    """The same apart for prompts that leave the motion open and prompts that state it."""
    texts, found = [], []
    for one in done:
        prompts = one.sides[BASE][0].first("prompt")
        is_open = {key for key, text in prompts.items() if "motion" not in grammar.parse(text)}
        groups = {"leaves the motion open": is_open, "states the motion": prompts.keys() - is_open}
        for group, ids in ((group, ids) for group, ids in groups.items() if ids):
            title = f"{one.part.title}, where the text {group}"
            judged = judge(one.part, one.sides, one.metrics, ids)
            columns = ["fidelity", *one.metrics]
            texts.append(f"## {title}\n\nn = {len(ids)} prompts.\n\n{figures(one.sides, columns, ids)}\n")
            texts.append(orderings(judged))
            found += [{"part": title, "n_prompts": len(ids)} | plain(each) for each in judged]
    return "\n".join(texts), {"judged": found}


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
