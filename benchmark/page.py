"""The page of one result, or of several on the same prompts: report.html."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import charts, markup, paper
from .charts import answer, figure, tick
from .diversity import SORTED_BY
from .exhibits import Shelf, Shown, home_of, shelf, wheel
from .report import facts, note
from .result import kind
from .sides import Side, values

PICKED = 4  # clips of each kind: most and least motion, lowest fidelity, typical
PROMPTS = 42  # whose images a page shows
SEEDS = 16  # of a prompt's images

#: By label, metric and prompt id.
Values = Mapping[str, Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True)
class Group:
    """Prompts shown under one heading."""

    title: str
    ids: Sequence[str]


@dataclass(frozen=True)
class Exhibit:
    """What one model made of a prompt; `facts` are names and numbers, `more` how many samples are not shown."""

    label: str
    facts: Sequence[tuple[str, str]]
    shown: Sequence[Shown]
    more: int


@dataclass(frozen=True)
class Block:
    """One prompt and what every model made of it."""

    id: str
    prompt: str
    exhibits: Sequence[Exhibit]


def results_page(sides: Mapping[str, Side], folder: Path) -> str:
    """The page of results (by the label they have on it) on the same prompts, to lie in `folder`."""
    results = {label: side.result for label, side in sides.items()}
    first = next(iter(results.values()))
    every = [m.name for found in results.values() for m in found.metrics]
    names = sorted(dict.fromkeys(every), key=lambda name: name != "fidelity")
    of = {label: {name: values(side, name).means for name in names} for label, side in sides.items()}
    texts = {key: text for side in sides.values() for key, text in side.first("prompt").items()}
    groups = by_diversity(of, texts) if still(sides) else by_motion(of, texts)
    theirs = [name for row in paper.TABLES.get(first.suite, ()) for name in row.values]
    columns = list(dict.fromkeys(["fidelity", *theirs, *names]))
    return markup.render(
        "results.html.j2",
        title=f"{first.suite}: {', '.join(results)}",
        suite=first.suite,
        results=results,
        names=names,
        columns=columns,
        kinds={name: kind(name) for name in columns},
        paper=paper.TABLES.get(first.suite, ()),
        citation=paper.CITATION,
        paper_note=paper.NOTES.get(first.suite.split("-")[0], ""),
        note=note(first.suite),
        bars=charts.bars(results, names),
        spreads=charts.spreads(results, of, names),
        values=of,
        texts=texts,
        figure=figure,
        answer=answer,
        tick_text=tick,
        facts=facts,
        **gallery(sides, of, folder, groups),
    )


def still(sides: Mapping[str, Side]) -> bool:
    """Whether all samples are images."""
    return all(row["frames"] in ("0", "1") for side in sides.values() for row in side.items)


def gallery(sides: Mapping[str, Side], of: Values, folder: Path, groups: Sequence[Group]) -> dict[str, Any]:
    """What the template of a page in `folder` takes to show these groups of prompts."""
    place, blocks = exhibit(sides, of, folder, [key for group in groups for key in group.ids])
    images = still(sides)
    return {
        "linked": place.linked,
        "still": images,
        "wheel": "" if images else wheel(),
        "groups": [(group.title, [blocks[key] for key in group.ids]) for group in groups],
        "shown": len(blocks),
    }


def by_diversity(of: Values, texts: Mapping[str, str]) -> list[Group]:
    """Prompts from least to most diverse by the first of SORTED_BY that there is, evenly picked where too many."""
    by = next((name for name in SORTED_BY if mean_over_models(of, name)), None)
    if by is None:
        return [Group("The images of each prompt", list(texts)[:PROMPTS])]
    scores = mean_over_models(of, by)
    sign = 1 if kind(by).direction == "higher" else -1
    ranked = sorted(scores, key=lambda key: sign * scores[key])
    ranked += [key for key in texts if key not in scores]
    mean = "the mean over models of " if len(of) > 1 else ""
    return [Group(f"From least to most diverse, by {mean}{by.replace('_', ' ')}", evenly(ranked, PROMPTS))]


def by_motion(of: Values, texts: Mapping[str, str]) -> list[Group]:
    """The clips worth a look, each once: where models differ most, most and least motion, lowest fidelity, typical."""
    flows = [name for name in next(iter(of.values())) if name.startswith("optical_flow")]
    by = next((name for name in flows if mean_over_models(of, name)), None)
    flow = mean_over_models(of, by) if by else {}
    ranked = sorted(flow, key=lambda key: -flow[key])
    wanted: list[tuple[str, list[str]]] = []
    if by and len(of) > 1:
        gap = {key: np.ptp([values[by][key] for values in of.values()]) for key in flow}
        wanted.append(("Where the models differ most", sorted(flow, key=lambda key: -gap[key])))
    wanted += [("Most motion", ranked), ("Least motion", ranked[::-1])]
    if right := mean_over_models(of, "fidelity"):
        wanted.append(("Lowest fidelity", sorted(right, key=lambda key: right[key])))
    middle = ranked[len(ranked) // 4 : -(len(ranked) // 4) or None] or list(texts)
    wanted.append(("Typical", evenly(middle, 3 * PICKED)))
    groups, seen = [], set[str]()
    for title, keys in wanted:
        picked = evenly([k for k in keys if k not in seen], PICKED) if title == "Typical" else []
        picked = picked or [key for key in keys if key not in seen][:PICKED]
        seen.update(picked)
        groups += [Group(title, picked)] if picked else []
    return groups


def mean_over_models(of: Values, name: str) -> dict[str, float]:
    """A metric of each prompt that all models have it for."""
    models = [values.get(name, {}) for values in of.values()]
    return {key: float(np.mean([m[key] for m in models])) for key in models[0] if all(key in m for m in models)}


def evenly(keys: Sequence[str], n: int) -> list[str]:
    """At most n of the keys, evenly spaced, both ends among them."""
    return [keys[i] for i in sorted(set(np.linspace(0, len(keys) - 1, min(n, len(keys))).round().astype(int)))]


def exhibit(sides: Mapping[str, Side], of: Values, folder: Path, keys: Sequence[str]) -> tuple[Shelf, dict[str, Block]]:
    """What every model made of these prompts, for a page in `folder`, and how its media are kept."""
    wanted = dict.fromkeys(keys)
    samples: dict[str, dict[str, list[Mapping[str, str]]]] = {label: {} for label in sides}
    texts: dict[str, str] = {}
    for label, side in sides.items():
        for row in side.items:
            if row["id"] in wanted:
                samples[label].setdefault(row["id"], []).append(row)
                texts.setdefault(row["id"], row["prompt"])
    homes = {label: home_of(side) for label, side in sides.items()}
    place = shelf(
        folder,
        [(homes[label], r["file"]) for label in sides for rows in samples[label].values() for r in rows[:SEEDS]],
    )

    def one(label: str, key: str) -> Exhibit:
        rows = samples[label].get(key, [])
        found = [(n, v[key], sides[label].result.metric(n)) for n, v in of[label].items() if key in v]
        numbers = [(name.replace("_", " "), answer(value, metric.unit)) for name, value, metric in found if metric]
        return Exhibit(label, numbers, [place.show(homes[label], row) for row in rows[:SEEDS]], len(rows[SEEDS:]))

    return place, {key: Block(key, texts.get(key, ""), [one(label, key) for label in sides]) for key in wanted}
