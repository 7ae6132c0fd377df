"""README.md of the tables' folder: every ordering that was judged, on one page, from the tables' JSON."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

from pdmd.files import parse_json, write_text

from ..report import grid
from .tables import MAKE
from .verdict import FAILS, HOLDS, UNEQUAL
from .writing import RATIOS

TEXT = """# The paper's claims on the embedded world

`pdmd reproduce` (docs/reproduce.md). Each table says by which command and commit it was made, of which seeds and
prompts, and why an ordering is undecided. A cell has the first model's lead in the metric's own terms (`x`: the ratio;
similarity: by how much less) and p: the larger of that over prompts and that over training seeds (figure2, modes: that
over training seeds), adjusted by Holm over the orderings of the metric, and for further looks as the table says.
**Bold: the ordering holds.** ~~Struck: it does not hold.~~ All others are undecided; † not at equal fidelity, which
forbids a verdict; – nothing to compare, or no test, as of one training seed.

"""


def summary(out: Path) -> Path:
    """Write it, and return its path."""
    texts = []
    for name in (name for name in MAKE if (out / f"{name}.json").is_file()):
        content = parse_json((out / f"{name}.json").read_bytes())
        texts.append(f"## [{content['title']}]({name}.md)\n")
        for part, orderings in judged(content).items():
            texts.append((f"{part}\n\n" if part else "") + matrix(orderings))
        texts += [f"{title}: {reason}\n" for title, reason in content.get("missing", {}).items()]
    target = out / "README.md"
    write_text(target, TEXT + "\n".join(texts))
    return target


def judged(content: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """What a table judged, by part: of each ordering a dict of ordering, on, p, verdict, and lead or ratio."""
    found = defaultdict(
        list, {part["title"]: part["orderings"] for part in content.get("parts", ()) if part["orderings"]}
    )
    for one in content.get("judged", ()):
        found[one.get("part", "")].append(one)
    return found


def matrix(orderings: list[dict[str, Any]]) -> str:
    """A row an ordering, a column a metric."""
    cells = {(one["ordering"], one["on"]): cell(one) for one in orderings}
    rows, columns = (list(dict.fromkeys(key[axis] for key in cells)) for axis in (0, 1))
    return grid(("", *columns), [(row, *(cells.get((row, column), "") for column in columns)) for row in rows]) + "\n"


def cell(one: dict[str, Any]) -> str:
    """The lead, p and verdict of an ordering."""
    if "ratio" in one:
        size = f"x {one['ratio']:.3g}"
    elif one["lead"]["n"] == 0:
        size = "–"
    else:
        lead = one["lead"]["mean"]
        size = f"x {math.exp(lead):.3g}" if one["on"] in RATIOS else f"{lead:+.2g}"
    text = f"{size}, p {'–' if one['p'] is None else format(one['p'], '.2g')}"
    if one["verdict"] in (HOLDS, FAILS):
        return f"**{text}**" if one["verdict"] == HOLDS else f"~~{text}~~"
    return text + (" †" if UNEQUAL in one.get("why", "") else "")
