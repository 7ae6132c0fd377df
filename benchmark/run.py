"""A suite from end to end: generate, score, summarise, report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pdmd.errors import UserError, suggest

from . import provenance, report, result
from .features.dis import Dis
from .features.flow import FlowEstimator
from .files import write_text
from .generate import BATCH_SIZE, Model, generate, read_manifest
from .result import Result
from .score import Item, score
from .suites import PromptSet, Suite, load_prompts

WEIGHTS = ("raft",)


def run_suite(
    suite: Suite,
    models: Sequence[Model],
    out: Path,
    weights: Mapping[str, Path] | None = None,
    *,
    batch_size: int = BATCH_SIZE,
    prompts: Path | None = None,
    limit: int | None = None,
    device: str = "cpu",
    quiet: bool = False,
) -> list[Path]:
    """Run a suite for every model and return the paths of their result.json, in the models' order.

    Each model gets out/NAME/ with media/, manifest.jsonl, generation.json, items.csv, result.json, report.md
    and its pictures; several models also get a joint out/report.md. Samples already there are kept. `prompts`
    replaces the suite's own file, `limit` takes its first prompts alone, `device` is where RAFT runs.
    Raises UserError for bad input, before anything is made.
    """
    estimator = make_estimator(weights or {}, device)
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
            run_model(suite, prompt_set, model, out / model.name, estimator, batch_size, bars)
            for prompt_set, model in zip(sets, models, strict=True)
        ]
    if len(models) > 1:
        write_text(out / "report.md", report.joint_markdown(results, names))
    return [out / name / "result.json" for name in names]


def make_estimator(weights: Mapping[str, Path], device: str = "cpu") -> FlowEstimator:
    """RAFT where its weights are given, else DIS. Raises UserError for weights of another name, or bad ones."""
    for name in weights:
        if name not in WEIGHTS:
            raise UserError(f"no network {name!r} takes weights: {suggest(name, WEIGHTS)}")
    if "raft" not in weights:
        return Dis()
    from .features.raft import Raft  # torchvision is slow to import, and only needed here

    return Raft(weights["raft"], device)


def run_model(
    suite: Suite,
    prompts: PromptSet,
    model: Model,
    folder: Path,
    estimator: FlowEstimator,
    batch_size: int,
    bars: Progress,
) -> Result:
    """Generate and score one model's samples."""
    total = sum(len(suite.seeds_of(p)) for p in prompts.prompts)
    task = bars.add_task(f"{model.name}: samples", total=total)
    generate(suite, prompts, model, folder, batch_size, lambda done: bars.advance(task, done))
    return score_folder(suite.name, folder, estimator, bars)


def score_folder(suite: str, folder: Path, estimator: FlowEstimator, bars: Progress | None = None) -> Result:
    """Score the media of a folder and write items.csv, result.json, report.md and pictures beside them.

    Needs manifest.jsonl; generation.json, where there, says the domain and how many samples to expect.
    Raises UserError for a folder without a manifest.
    """
    samples = read_manifest(folder / "manifest.jsonl")
    generation = _generation(folder)
    domain = str(generation["model"].get("domain", "open"))
    prompts, seeds = generation.get("prompts", {}), generation.get("suite", {}).get("seeds", [])
    expected = int(prompts.get("n", 0)) * len(seeds) or len(samples)
    bars = bars or Progress(disable=True)
    name = str(generation["model"].get("name", folder.name))
    items = list(
        bars.track(score(folder, samples, domain, estimator), total=len(samples), description=f"{name}: scores")
    )
    found, missing = result.summarise(items, expected, suite, domain, estimator)
    record = provenance.record() | {"flow": estimator.provenance()}
    made = Result(
        schema_version=result.SCHEMA_VERSION,
        suite=suite,
        model=name,
        generation=generation,
        provenance=record,
        expected=expected,
        metrics=tuple(found),
        missing=tuple(missing),
        problems={f"{item.id}-{item.seed}": item.problems for item in items if item.problems},
    )
    write_report(made, folder, items, "optical_flow" + estimator.suffix)
    return made


def write_report(made: Result, folder: Path, items: Sequence[Item], flow_name: str) -> None:
    """items.csv, the pictures, report.md, and result.json last: where it is, all is."""
    write_text(folder / "items.csv", result.items_csv(items))
    flows = [item.values[flow_name] for item in items if flow_name in item.values]
    pictures = ["clips.png", "flow.png"] if flows else []
    if flows:
        report.draw_clips(folder / "clips.png", folder, items, flow_name)
        report.draw_flow(folder / "flow.png", flows, result.UNITS["optical_flow"])
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
