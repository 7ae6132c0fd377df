"""Each method's learning rate: the same few rates for each, one training seed, the whole budget; taken is the rate
whose clips lie, as a set, nearest to the base model's (`frechet_sprites`, which sees fidelity and spread alike) on
prompts that are held out from training and are not the benchmark's."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from pdmd.errors import UserError
from pdmd.files import write_text
from pdmd.sprites import grammar
from pdmd.sprites.prompts import held_out
from pdmd.sprites.quality import held_out_scenes

from .. import provenance
from ..diversity import CLIP_VALUES
from ..frechet import LEAST_PROMPTS, NAME
from ..report import grid
from ..sides import Side
from .measure import is_kept, measured
from .work import DMD, FEW_STEP, PHASED, SGTS, Student, Work, finished, train

SWEPT = {variant.method: variant for variant in (DMD, FEW_STEP, SGTS, PHASED)}
RATES = (1e-4, 2e-4, 4e-4)
SEED = 0  # the rate that is taken has this student trained already
PROMPTS, PROMPT_SEED = 16, 1
SHOWN = ("fidelity", NAME, "factor_diversity", "sprites_distance")


def prompts() -> str:
    """The sweep's prompts as JSON Lines: held out, none of the benchmark's, each with a factor open besides speed."""
    texts = [text for text, _ in held_out_scenes(8 * PROMPTS, PROMPT_SEED)]
    fit = [
        text for text in dict.fromkeys(texts) if text not in held_out() and set(CLIP_VALUES) - set(grammar.parse(text))
    ]
    return "".join(json.dumps({"id": f"s{i:02d}", "text": text}) + "\n" for i, text in enumerate(fit[:PROMPTS]))


def students(work: Work, method: str) -> list[Student]:
    return [Student(SWEPT[method], work.teacher, lr, SEED) for lr in RATES]


def rates(work: Work, methods: Iterable[str]) -> dict[str, float]:
    """The learning rate of each method: the one given with `--set lr`, or else the best of the sweep, whose table goes
    to sweep.md and sweep.json."""
    wanted = list(dict.fromkeys(methods))
    if work.rate is not None:
        return dict.fromkeys(wanted, work.rate)
    if work.limit is not None and work.limit < LEAST_PROMPTS:
        raise UserError(f"the sweep of learning rates needs --limit {LEAST_PROMPTS} or more; or give --set lr=RATE")
    file = work.runs / "sweep-prompts.jsonl"
    write_text(file, prompts())
    known = {s for m in SWEPT for s in students(work, m) if is_kept(work, "clips", s, file, "sweep")}
    every = [s for method in wanted for s in students(work, method)]
    lost = train(work, [s for s in every if s not in known], partial(_measured, work, file))
    done = {m: [s for s in students(work, m) if s in known or finished(s.folder(work))] for m in SWEPT}
    done = {m: each for m, each in done.items() if m in wanted or len(each) == len(RATES)}  # others' as far as whole
    if none := [method for method in wanted if not done[method]]:
        raise UserError(f"{none[0]} diverges at every learning rate of the sweep: {next(iter(lost.values()))}")
    found = _measured(work, file, *(s for each in done.values() for s in each))
    rows: dict[str, dict[str, Any]] = {
        s.name: {"method": method, "lr": s.lr, "seed": s.seed, "command": s.command(work)}
        | {name: m.value for name in SHOWN if (m := found[s.name].result.metric(name))}
        for method, each in done.items()
        for s in each
    }
    best = {m: min(each, key=lambda s: rows[s.name][NAME]).lr for m, each in done.items()}
    _write(work, rows, best, file, lost)
    return {method: best[method] for method in wanted}


def _measured(work: Work, file: Path, *students: Student) -> dict[str, Side]:
    return measured(work, "clips", work.teacher, students, file, "sweep")


def _write(
    work: Work, rows: dict[str, dict[str, Any]], best: dict[str, float], file: Path, lost: dict[str, str]
) -> None:
    asked = file.read_text(encoding="utf-8").splitlines()[: work.limit]
    content = {"command": work.command, "prompts": asked, "chosen": best, "students": rows}
    content |= {"diverged": lost, "provenance": provenance.record()}
    write_text(work.out / "sweep.json", json.dumps(content, indent=1) + "\n")
    lines: list[tuple[str, ...]] = []
    for row in rows.values():
        taken = row["lr"] == best[row["method"]]
        note = "taken" + ", at the sweep's end" * (row["lr"] in (RATES[0], RATES[-1])) if taken else ""
        lines.append((row["method"], f"{row['lr']:g}", *(f"{row[name]:.4f}" for name in SHOWN), note))
    lines += [(name, "", *("–" for _ in SHOWN), why) for name, why in lost.items()]
    text = f"""# Learning rates

`{work.command}`, commit {provenance.commit_text()}.

{grid(("method", "learning rate", *SHOWN, ""), lines)}

Training seed {SEED}, the whole budget; n = {len(asked)} prompts x 8 seeds, clips; the prompts are held out from all
training and are none of the benchmark's ([sweep.json](sweep.json) has them). Taken is the rate with the least
`{NAME}`. F's rate is twice the generator's.
"""
    write_text(work.out / "sweep.md", text)
