"""A suite from end to end: generate, score, summarise, report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pdmd.errors import UserError
from pdmd.files import write_text

from . import diversity, motion, provenance, report, result
from .features.weights import check_names
from .generate import BATCH_SIZE, Model, generate, read_manifest
from .result import Result
from .score import Media, Scored, Scorer, items_csv, prompts_csv
from .suites import PromptSet, Suite, load_prompts

#: Suite -> what makes its scorer from the weights given and a device.
SCORERS: dict[str, Callable[[Mapping[str, Path], str], Scorer]] = {
    "diversity": diversity.make,
    "motion": motion.make,
}


def run_suite(
    suite: Suite,
    models: Sequence[Model],
    out: Path,
    weights: Mapping[str, Path] | None = None,
    *,
    batch_size: int = BATCH_SIZE,
    prompts: Path | None = None,
    limit: int | None = None,
    dynamic_degree: str = "pdmd",
    device: str = "cpu",
    quiet: bool = False,
) -> list[Path]:
    """Run a suite for every model and return the paths of their result.json, in the models' order.

    Each model gets out/NAME/ with media/, manifest.jsonl, generation.json, items.csv, result.json, report.md
    and its pictures, for diversity also prompts.csv; several models also get a joint out/report.md. Samples
    already there are kept. `weights` are files by network (features/weights.py), `prompts` replaces the
    suite's own file, `limit` takes its first prompts alone, `dynamic_degree` is one of motion.IMPLEMENTATIONS,
    `device` is where the networks of the metrics run. Raises UserError for bad input, before anything is made.
    """
    check_names(weights or {})
    make = SCORERS[suite.name]
    if make is motion.make:
        make = partial(motion.make, dynamic_degree=dynamic_degree)
    scorer = make(weights or {}, device)
    sets = [load_prompts(suite, model.domain, prompts) for model in models]
    if limit is not None and limit < 1:
        raise UserError(f"limit {limit}: a run needs at least one prompt")
    sets = [replace(s, prompts=s.prompts[:limit]) for s in sets]
    names = [model.name for model in models]
    for name in names:
        if name in ("", ".", "..") or any(c in name for c in "/\\:\0"):
            raise UserError(f"model name {name!r} cannot name a folder under {out}")
        if names.count(name) > 1:
            raise UserError(f"two models are called {name!r}; their results would overwrite each other")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as bars:
        results = [
            run_model(suite, prompt_set, model, out / model.name, scorer, batch_size, bars)
            for prompt_set, model in zip(sets, models, strict=True)
        ]
    if len(models) > 1:
        write_text(out / "report.md", report.joint_markdown(results, names))
    return [out / name / "result.json" for name in names]


def run_model(
    suite: Suite,
    prompts: PromptSet,
    model: Model,
    folder: Path,
    scorer: Scorer,
    batch_size: int,
    bars: Progress,
) -> Result:
    """Generate and score one model's samples."""
    total = sum(len(suite.seeds_of(p)) for p in prompts.prompts)
    task = bars.add_task(f"{model.name}: samples", total=total)
    generate(suite, prompts, model, folder, batch_size, lambda done: bars.advance(task, done))
    return score_folder(suite.name, folder, scorer, bars)


def score_folder(suite: str, folder: Path, scorer: Scorer, bars: Progress | None = None) -> Result:
    """Score the media of a folder and write items.csv, result.json, report.md and pictures beside them.

    Needs manifest.jsonl; generation.json, where there, says the domain and how many samples to expect.
    Raises UserError for a folder without a manifest.
    """
    samples = read_manifest(folder / "manifest.jsonl")
    generation = _generation(folder)
    media = Media(
        folder=folder,
        out=folder,
        suite=suite,
        model=str(generation["model"].get("name", folder.name)),
        domain=str(generation["model"].get("domain", "open")),
        samples=samples,
        prompts=int(generation.get("prompts", {}).get("n", 0)),
        seeds=len(generation.get("suite", {}).get("seeds", [])),
    )
    progress = bars or Progress(disable=True)

    def track(work: Iterable[Any], total: int, names: Sequence[str]) -> Iterable[Any]:
        return progress.track(work, total=total, description=f"{media.model}: {', '.join(names)}")

    scored = scorer.score(media, track)
    made = Result(
        schema_version=result.SCHEMA_VERSION,
        suite=suite,
        model=media.model,
        generation=generation,
        provenance=provenance.record() | scorer.provenance(),
        expected=scored.expected,
        metrics=tuple(scored.metrics),
        missing=tuple(scored.missing),
        problems=scored.problems,
    )
    write_report(made, folder, scored, scorer.draw(media, scored))
    return made


def write_report(made: Result, folder: Path, scored: Scored, pictures: Mapping[str, str]) -> None:
    """items.csv, prompts.csv, report.md, and result.json last: where it is, all is."""
    write_text(folder / "items.csv", items_csv(scored.items))
    if scored.prompts:
        write_text(folder / "prompts.csv", prompts_csv(scored.prompts, [m.name for m in made.metrics]))
    write_text(folder / "report.md", report.markdown(made, pictures))
    result.save(made, folder / "result.json")


def _generation(folder: Path) -> dict[str, Any]:
    """generation.json, or a stand-in for media made by anything else."""
    path = folder / "generation.json"
    if not path.is_file():
        return {"model": {"name": folder.name, "kind": "media", "path": str(folder)}}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(content["model"], dict)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AssertionError):
        raise UserError(f"{path} is damaged; delete it, or generate the samples again") from None
    return content
