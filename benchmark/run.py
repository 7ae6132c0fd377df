"""A suite from end to end: generate, score, summarise, report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pdmd.errors import UserError
from pdmd.files import claim, write_text
from pdmd.media import CODEC, LOSSLESS, Codec

from . import diversity, frechet, motion, pairs, provenance, report, result, several
from .features import weights as weights_files
from .first_frames import FOLDER, check, with_first_frames
from .generate import BATCH_SIZE, Model, generate, read_manifest, read_record
from .given import Given, match
from .page import results_page
from .result import Result
from .score import Media, Scored, Scorer, items_csv, prompts_csv
from .shards import ALONE, Shard
from .sides import side_of
from .suites import PromptSet, Suite, load_prompts

#: Suite -> what makes its scorer from the weights given and a device.
SCORERS: dict[str, Callable[[Mapping[str, Path], str], Scorer]] = {
    "diversity": diversity.make,
    "motion": motion.make,
    "motion-i2v": motion.make,
}
#: Suite -> the networks that measure it and whose weights do not ship.
NETWORKS = {"diversity": tuple(pairs.NETWORKS.values()), "motion": ("raft",), "motion-i2v": ("raft",)}


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
    media: Sequence[Path] = (),
    domain: str | None = None,
    lossless: bool = False,
    first_frames: Path | None = None,
    clips: bool = False,
    fetch: bool = False,
    shard: Shard = ALONE,
    command: str | None = None,
) -> list[Path]:
    """Run a suite for every model and every folder of media, and return the paths of their result.json, in this order.

    Each model gets out/NAME/ with media/, manifest.jsonl, generation.json, items.csv, result.json, report.md
    and its pictures, report.html, for diversity also prompts.csv; several models on the same prompts also get a
    joint out/report.md and report.html. Samples already there are kept. The first teacher of the embedded world is
    the base model that frechet_sprites sets the others against; it is measured first. `weights` are files by network
    (features/weights.py), `prompts` replaces the suite's own file, `limit` takes its first prompts alone,
    `dynamic_degree` is one of motion.IMPLEMENTATIONS, `device` is where the networks of the metrics run. `media` are
    folders of files made by anything else (given.py), of prompts of `domain`; they are only read. `lossless` writes
    videos as FFV1. First frames, where the suite has them, are those of the folder `first_frames`, or else rendered
    into out/first-frames. With `clips` the samples of the diversity suite are clips. With `fetch` weights that are
    neither given nor in a cache are fetched there by their own libraries, first of all. Of several processes
    (shards.py) each generates its share, and the first alone measures; the others return nothing. `command` is what
    reports say to run again, else this process's own. Raises UserError for bad input, before anything is made, and
    where another process is at work in one of these folders.
    """
    weights_files.check_names(weights or {})
    for model in models:
        check(suite, model, first_frames)
    if clips:
        suite = replace(suite, frames=None)
    make = SCORERS[suite.name]
    if make is motion.make:
        make = partial(motion.make, dynamic_degree=dynamic_degree)
    if fetch and shard.rank == 0:
        for network in NETWORKS[suite.name]:
            weights_files.fetch(network, weights or {})
    scorer = make(weights or {}, device) if shard.rank == 0 else None
    sets = [load_prompts(suite, model.domain, prompts) for model in models]
    if limit is not None and limit < 1:
        raise UserError(f"limit {limit}: a run needs at least one prompt")
    sets = [replace(s, prompts=s.prompts[:limit]) for s in sets]
    given = [match(folder, suite, prompts, limit, domain) for folder in media]
    names = [model.name for model in models] + [folder.resolve().name for folder in media]
    for folder, name in zip(media, names[len(models) :], strict=True):
        if (out / name).resolve().is_relative_to(folder.resolve()):
            raise UserError(f"--out {out} would write into --media {folder}, which is only read; give another --out")
    for name in names:
        if name in ("", ".", "..", FOLDER) or any(c in name for c in "/\\:\0"):
            raise UserError(f"model name {name!r} cannot name a folder under {out}")
        if names.count(name) > 1:
            raise UserError(f"two models or folders are called {name!r}; their results would overwrite each other")
        if (held := _suite_in(out / name)) not in (None, suite.name):
            raise UserError(f"{out / name} holds a result of the suite {held!r}; give another --out")
    if suite.first_frames:
        sets = [with_first_frames(suite, prompt_set, first_frames, out, shard) for prompt_set in sets]
    base = next((m for m in models if m.domain == "sprites" and m.identity.get("kind") == "teacher"), None)
    against = out / base.name if base else None
    codec = LOSSLESS if lossless else CODEC
    with ExitStack() as stack:
        if shard.rank == 0:
            for name in names:
                stack.enter_context(claim(out / name))
        bars = stack.enter_context(progress_bars(quiet))
        for prompt_set, model in zip(sets, models, strict=True):
            make_samples(suite, prompt_set, model, out / model.name, batch_size, bars, codec, shard)
        if scorer is None:
            return []
        for model in sorted(models, key=lambda model: model is not base):
            score_folder(suite.name, out / model.name, scorer, bars, against, command)
        for folder, found, name in zip(media, given, names[len(models) :], strict=True):
            score_given(suite.name, folder, found, out / name, scorer, bars, against, clips, command)
    paths = [out / name / "result.json" for name in names]
    if len(names) > 1:
        for name in several.FILES:
            (out / name).unlink(missing_ok=True)  # an older run's, of other results
        try:
            several.report(paths, out)
        except UserError as error:
            Console(stderr=True).print(f"no joint report: {error}", markup=False)
    return paths


def _suite_in(folder: Path) -> str | None:
    """The suite of the result that a folder holds; None where there is none that can be read."""
    try:
        return result.load(folder / "result.json").suite
    except UserError:
        return None


def progress_bars(quiet: bool) -> Progress:
    """Bars on the standard error, each with what it is of, how much is done, and the time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=quiet)


def a_bar(bars: Progress, text: str) -> Callable[[int, int], None]:
    """One of them, to be told how many are done of how many; its time is counted from the first that is told."""
    task = bars.add_task(text, total=None)

    def show(done: int, total: int) -> None:
        if bars.tasks[task].total is None:
            bars.reset(task, total=total, completed=done)
        bars.update(task, completed=done)

    return show


def make_samples(
    suite: Suite,
    prompts: PromptSet,
    model: Model,
    folder: Path,
    batch_size: int,
    bars: Progress,
    codec: Codec = CODEC,
    shard: Shard = ALONE,
) -> None:
    """Generate one model's samples, this process's share of them; the time left is that of what is yet to be made."""
    share = f", process 1 of {shard.count}" if shard.count > 1 else ""
    show = a_bar(bars, f"{model.name}: samples{share}")
    generate(suite, prompts, model, folder, batch_size, show, codec=codec, shard=shard)


def score_folder(
    suite: str,
    folder: Path,
    scorer: Scorer,
    bars: Progress | None = None,
    base: Path | None = None,
    command: str | None = None,
) -> Result:
    """Score the media of a folder and write items.csv, result.json, report.md and pictures beside them.

    Needs manifest.jsonl; generation.json, where there, says the domain and how many samples to expect. `base`
    is the folder of the base model, scored already or this very one.
    Raises UserError for a folder without a manifest.
    """
    samples = read_manifest(folder / "manifest.jsonl")
    generation = read_record(folder) or {"model": {"name": folder.name, "kind": "media", "path": str(folder)}}
    media = Media(
        folder=folder,
        out=folder,
        suite=suite,
        model=str(generation["model"].get("name", folder.name)),
        domain=str(generation["model"].get("domain", "open")),
        samples=samples,
        prompts=int(generation.get("prompts", {}).get("n", 0)),
        seeds=len(generation.get("suite", {}).get("seeds", [])),
        shown=shown(generation),
        command=command or provenance.command(),
        base=base,
        clips=suite == "diversity" and generation.get("media", {}).get("frames", 1) is None,
    )
    return score_media(media, generation, scorer, bars)


def score_given(
    suite: str,
    folder: Path,
    given: Given,
    out: Path,
    scorer: Scorer,
    bars: Progress | None = None,
    base: Path | None = None,
    clips: bool = False,
    command: str | None = None,
) -> Result:
    """Score a folder of media made by anything else; the result goes to `out`."""
    media = Media(
        folder=folder,
        out=out,
        suite=suite,
        model=folder.resolve().name,
        domain=given.domain,
        samples=given.samples,
        prompts=given.prompts,
        seeds=given.seeds,
        command=command or provenance.command(),
        base=base,
        refused=given.refused,
        shown=shown(given.record),
        clips=clips,
    )
    return score_media(media, given.record, scorer, bars, given.left_out)


def shown(generation: Mapping[str, Any]) -> dict[str, str]:
    """What first frames show, by prompt id, where a record says it."""
    return {key: str(row["image"]) for key, row in generation.get("first_frames", {}).get("of", {}).items()}


def score_media(
    media: Media,
    generation: Mapping[str, Any],
    scorer: Scorer,
    bars: Progress | None = None,
    left_out: Mapping[str, str] = MappingProxyType({}),
) -> Result:
    """Score media and write the result to `media.out`; `left_out` are files that are none of its samples, and why."""
    progress = bars or Progress(disable=True)

    def track(work: Iterable[Any], total: int, names: Sequence[str]) -> Iterable[Any]:
        return progress.track(work, total=total, description=f"{media.model}: {', '.join(names)}")

    scored = scorer.score(media, track)
    made = Result(
        schema_version=result.SCHEMA_VERSION,
        suite=media.suite,
        model=media.model,
        generation=generation,
        provenance=provenance.record() | scorer.provenance(),
        expected=scored.expected,
        metrics=tuple(scored.metrics),
        missing=tuple(scored.missing),
        problems=scored.problems | {name: {"left out": reason} for name, reason in left_out.items()},
    )
    write_report(made, media.out, scored, scorer.draw(media, scored))
    return made


def write_report(made: Result, folder: Path, scored: Scored, pictures: Mapping[str, str]) -> None:
    """items.csv, prompts.csv, report.md, report.html, and result.json last: where it is, all is."""
    write_text(folder / "items.csv", items_csv(scored.items))
    if scored.prompts:
        names = [m.name for m in made.metrics if result.by_prompt(m.name)]
        write_text(folder / "prompts.csv", prompts_csv(scored.prompts, names))
    frechet.save(scored.items, folder)
    write_text(folder / "report.md", report.markdown(made, pictures))
    side = side_of(folder / "result.json", made)
    write_text(folder / "report.html", results_page({made.model: side}, folder))
    result.save(made, folder / "result.json")
