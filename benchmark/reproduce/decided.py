"""At which noise level what is decided: the base model's clips are noised to t and taken down again. What still comes
out as it was had been decided by then, so the experts before t choose it and those after cannot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pdmd.files import parse_json, without_path, write_text, write_whole
from pdmd.flow import renoise
from pdmd.plan import Plan
from pdmd.sample import Guided, guided_flow, pixels
from pdmd.sprites import grammar, reader

from .. import stats
from ..diversity import CLIP_VALUES
from ..report import grid
from ..suites import get_suite, load_prompts
from .freeze import APART
from .table import Done
from .work import PHASED, Student, Work, base

NAME = "decided"
LEVELS = (0.95, 0.9, 0.85, 0.8, 0.75, 0.65, 0.5, 0.3)
BATCH, SEED = 42, 7
CHANCE, ALL = "another seed", "all"
#: By noise level (CHANCE: clips of the same prompt and another seed): by factor, and over ALL, the share of open ones
#: that come out the same; over ALL by prompt; how far APART the objects are.
Found = dict[str, dict[str, Any]]


def more(done: Sequence[Done], work: Work) -> tuple[str, dict[str, Any]]:
    """The shares by level as Markdown, for JSON, and as a picture beside the table's."""
    model, path = base(work, work.teacher), work.out / "results" / f"{NAME}.json"
    identity = without_path(model.identity)
    made_of = json.loads(json.dumps({"model": identity, "limit": work.limit, "levels": LEVELS}))
    kept = parse_json(path.read_bytes()) if path.is_file() else {}
    if kept.get("of") != made_of:
        kept = {"of": made_of, "found": shares(model, work)}
        write_text(path, json.dumps(kept, indent=1) + "\n")
    found: Found = kept["found"]
    plan = Student(PHASED, work.teacher, 1e-4, 0).config(work).plan()  # of any learning rate and seed
    write_whole(work.out / f"{NAME}.png", lambda part: draw(found, plan, part))
    return text(found, plan), {NAME: found}


def shares(model: Guided, work: Work) -> Found:
    """Of the diversity suite's prompts and seeds, as clips."""
    suite, teacher = get_suite("diversity"), model.teacher
    asked = load_prompts(suite, model.domain, None).prompts[: work.limit]
    pairs = [(prompt.text, seed) for prompt in asked for seed in suite.seeds]
    texts, seeds = zip(*pairs, strict=True)
    rows = [slice(i, i + BATCH) for i in range(0, len(pairs), BATCH)]

    def seen(x: Tensor) -> list[reader.Reading]:
        return [reader.read(clip) for r in rows for clip in pixels(teacher, x[r], model.name, seeds[r])]

    x0 = torch.cat([model.latents(texts[r], seeds[r], None) for r in rows])
    first = seen(x0)
    n = len(suite.seeds)
    found = {CHANCE: agreement(texts, first, [first[i - i % n + (i + 1) % n] for i in range(len(first))])}
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(SEED)).to(x0.device)
    for t in LEVELS:
        x_t, down = renoise(x0, eps, 0.0, t), (t, *(u for u in teacher.grid(model.steps) if u < t))
        again = torch.cat([guided_flow(teacher, x_t[r], teacher.encode(texts[r]), down) for r in rows])
        found[f"{t:g}"] = agreement(texts, first, seen(again))
        print(f"{NAME}: t = {t:g}, {found[f'{t:g}'][ALL]:.2f} of what is open stays", flush=True)
    return found


def agreement(
    texts: Sequence[str], first: Sequence[reader.Reading], second: Sequence[reader.Reading]
) -> dict[str, Any]:
    """Of two readings of each clip: which open factors that the first shows come out the same."""
    same: dict[str, list[bool]] = {}
    prompts: dict[str, list[bool]] = {}
    for text_, a, b in zip(texts, first, second, strict=True):
        for name in CLIP_VALUES.keys() - grammar.parse(text_).keys():
            if a.factors[name] is not None:
                for key, of in ((name, same), (text_, prompts)):
                    of.setdefault(key, []).append(a.factors[name] == b.factors[name])
    far = [x for a, b in zip(first, second, strict=True) if (x := reader.apart(a, b)) is not None]
    means = {name: float(np.mean(same[name])) for name in CLIP_VALUES if name in same}
    means[ALL] = float(np.mean([x for each in same.values() for x in each])) if same else float("nan")
    by_prompt = {key: float(np.mean(each)) for key, each in prompts.items()}
    return means | {"by prompt": by_prompt, APART: float(np.mean(far)) if far else None}


def beyond_chance(found: Found, level: str, name: str) -> float:
    """0 where no more stays than another seed shares, 1 where all stays."""
    chance = found[CHANCE][name]
    return float((found[level][name] - chance) / (1 - chance)) if chance < 1 else 1.0


def draw(found: Found, plan: Plan, to: Path) -> None:
    """What is decided over the noise level, the student's steps and the boundary of two phases marked."""
    figure = Figure(figsize=(7, 3.6), dpi=150, layout="constrained")
    axis = figure.subplots()
    levels = [key for key in found if key != CHANCE]
    for name in (n for n in found[CHANCE] if n in (*CLIP_VALUES, ALL)):
        style: Mapping[str, Any] = {"color": "black", "lw": 2.2} if name == ALL else {"lw": 1.2}
        curve = [0.0, *(beyond_chance(found, level, name) for level in levels), 1.0]
        axis.plot([1.0, *map(float, levels), 0.0], curve, label=name, **style)
    for k, t in enumerate(plan.grid[:-1]):
        axis.axvline(t, color="0.6", lw=0.8, ls="-" if t == plan.phases[0].end else ":", zorder=0)
        axis.text(t, 1.03, f"step {k + 1}", fontsize=8, color="0.35")
    axis.set(xlim=(1, 0), ylim=(-0.2, 1.12), xlabel="noise level $t$ (1 is noise)", ylabel="decided, beyond chance")
    axis.legend(frameon=False, fontsize=8, ncols=1, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(to)


def text(found: Found, plan: Plan) -> str:
    """The shares as Markdown."""
    names = [n for n in found[CHANCE] if n in CLIP_VALUES]
    lines, n = [], len(found[CHANCE]["by prompt"])
    for level, row in found.items():
        each = stats.t_interval(list(row["by prompt"].values()))
        bounds = f" ({each.low:.2f} to {each.high:.2f})" if each else ""
        apart = "–" if row[APART] is None else f"{row[APART]:.1f}"
        lines.append((level, f"{row[ALL]:.2f}{bounds}", *(f"{row[n]:.2f}" for n in names), apart))
    return f"""## What is decided at which noise level

{grid(("t", "open factors the same", *names, APART), lines)}

![what is decided at which noise level]({NAME}.png)

The base model's clips of the diversity suite, noised to t and taken down again with its own steps: the share of the
factors that a text leaves open that come out as they were, in brackets the 95 % interval of the mean over
{n} prompts; first what two seeds of a prompt share by chance. Drawn: the share less chance, over one less chance.
A student's steps begin at t = {", ".join(f"{t:g}" for t in plan.grid[:-1])}; the solid line is the
boundary of two phases.
"""
