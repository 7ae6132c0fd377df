"""The first expert fixed, the second trained once and four times as long: composition stays, detail improves.

Clips of the same prompt and noise are read by the embedded world's reader. Composition: the share of factors that come
out the same, and how far apart the objects are. Detail: how far a clip is from a clean render of what was read in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pdmd.media import inside, read_video
from pdmd.sample import Student as StudentModel
from pdmd.sample import load_model
from pdmd.sprites import reader, world

from ..diversity import CLIP_VALUES
from ..report import grid
from ..sides import Side
from . import verdict
from .measure import Values, aligned
from .table import BASE, MOTION, Done, Judged, Part, Table
from .work import PHASED, Variant, Work
from .writing import orderings, plain

TIMES = 4
SHORT, LONG = "1 x", f"{TIMES} x"
SAME, APART, DETAIL = "factors the same, share", "apart, pixels", "from a clean render, levels"


@dataclass(frozen=True)
class Seen:
    """A clip's reading, and its distance from a clean render (None: not one legible object)."""

    reading: reader.Reading
    detail: float | None


def clean_distance(frames: np.ndarray, reading: reader.Reading) -> float | None:
    """Root mean square difference, levels of 255, between a clip uint8 (F, H, W, 3) and the world's own render of one
    object of the factors, the size and the track that were read; None where these are not legible, or of two objects,
    whose single tracks are not read."""
    legible = all(reading.factors[name] for name in ("colour", "shape", "ground"))
    if not legible or reading.factors["count"] != "one" or not np.isfinite(reading.track).all():
        return None
    clean = world.render(world.Scene(reading.factors, reading.radius, reading.track[:, None]), len(frames))
    return float(np.sqrt(np.mean((frames.astype(np.float64) - clean) ** 2)))


def look(side: Side) -> dict[str, Seen]:
    """What each clip of a result shows, by prompt id."""
    seen = {}
    for row in side.items:
        frames = read_video(inside(side.path.parent, row["file"])).frames
        reading = reader.read(frames)
        seen[row["id"]] = Seen(reading, clean_distance(frames, reading))
    return seen


def same(a: Seen, b: Seen) -> float | None:
    """Share of the factors that both show, and show alike."""
    pairs = [(a.reading.factors[name], b.reading.factors[name]) for name in CLIP_VALUES]
    return sum(x is not None and x == y for x, y in pairs) / len(pairs)


def apart(a: Seen, b: Seen) -> float | None:
    """Mean distance between the objects' centres, pixels; None where no frame shows them in both."""
    return reader.apart(a.reading, b.reading)


def between(
    first: Sequence[dict[str, Seen]], second: Sequence[dict[str, Seen]], of: Callable[[Seen, Seen], float | None]
) -> Values:
    """A number of two clips of the same prompt and noise, by training seed and prompt, where it can be had."""
    return [
        {key: value for key in a if (value := of(a[key], b[key])) is not None}
        for a, b in zip(first, second, strict=True)
    ]


def more(done: Sequence[Done], work: Work) -> tuple[str, dict[str, Any]]:
    """Composition and detail, as Markdown and for JSON."""
    (one,) = done
    seen = {label: [look(side) for side in row] for label, row in one.sides.items()}
    short, long = seen[SHORT], seen[LONG]
    pairs = {f"{SHORT} and {LONG}": (short, long), f"{SHORT} and base": (short, seen[BASE] * len(short))}
    if len(short) > 1:
        pairs[f"{SHORT} and {SHORT} of another training seed"] = (short, [*short[1:], short[0]])
    both = {label: (between(a, b, same), between(a, b, apart)) for label, (a, b) in pairs.items()}
    detail = {
        label: [{key: s.detail for key, s in each.items() if s.detail is not None} for each in row]
        for label, row in seen.items()
    }
    stays, base = list(both)[:2]
    judged = [  # one ordering a metric, so that there is nothing to adjust
        _judged(SAME, stays, base, both[stays][0], both[base][0]),
        _judged(APART, stays, base, both[base][1], both[stays][1]),
        _judged(DETAIL, LONG, SHORT, detail[SHORT], detail[LONG]),
    ]
    fixed = [_same_expert(a.folder(work), b.folder(work)) for a, b in zip(*one.students.values(), strict=True)]
    figures = {label: {SAME: _mean(a), APART: _mean(b)} for label, (a, b) in both.items()}
    composition = grid(
        ("clips of the same prompt and noise", SAME, APART),
        [(label, row[SAME], row[APART]) for label, row in figures.items()],
    )
    details = grid(
        ("", DETAIL, "clips, by training seed"),
        [(label, _mean(row), ", ".join(str(len(x)) for x in row)) for label, row in detail.items()],
    )
    text = f"""## Composition and detail

The first experts of both students are the same to the last bit: {"yes" if all(fixed) else "NO"}.

{composition}

{details}

{orderings(judged)}"""
    further = {
        "first_expert_the_same": fixed,
        "composition": figures,
        "detail": {k: _mean(v) for k, v in detail.items()},
    }
    return text, further | {"judged": [plain(one) for one in judged]}


def _judged(metric: str, leads: str, other: str, higher: Values, lower: Values) -> Judged:
    """The ordering "higher minus lower is positive", over the prompts that both have."""
    first, second = aligned(higher, lower)
    (finding,) = verdict.decide([verdict.lead(first - second)], [""])
    return Judged(metric, leads, other, finding)


def _mean(row: Values) -> str:
    numbers = [value for one in row for value in one.values()]
    return f"{np.mean(numbers):.4f}" if numbers else "–"


def _same_expert(first: Any, second: Any) -> bool:
    """Whether two students' first experts are equal to the last bit."""
    models = [load_model(str(folder)) for folder in (first, second)]
    a, b = (model.experts[0].state_dict() for model in models if isinstance(model, StudentModel))
    return a.keys() == b.keys() and all(bool((a[key] == b[key]).all()) for key in a)


TABLE = Table(
    "freeze",
    "A longer second phase behind the same first one",
    parts=(
        Part(
            "Clips",
            "motion",
            {SHORT: PHASED, LONG: Variant("phased-longer", "phased", times=TIMES, after=PHASED)},
            MOTION,
            media=True,
        ),
    ),
    note="The paper's finding: behind a fixed first expert, a longer second phase changes detail, not composition.",
    more=more,
)
