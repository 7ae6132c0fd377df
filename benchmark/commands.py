"""The benchmark's commands: pdmd bench, report and compare. pdmd/cli.py puts them on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pdmd.errors import UserError

if TYPE_CHECKING:
    from pdmd.sample import Model

    from .shards import Shard


def bench(
    action: Annotated[
        str | None,
        typer.Argument(
            metavar="[prepare-i2v]", help="Only make the first frames of the motion-i2v suite.", show_default=False
        ),
    ] = None,
    suite: Annotated[str, typer.Option(help="diversity, motion, motion-i2v, or all that the model can do.")] = "motion",
    model: Annotated[
        list[str] | None, typer.Option(help="A run, a student's folder or a teacher; repeatable.  \\[the newest run]")
    ] = None,
    media: Annotated[
        list[Path] | None,
        typer.Option(help="A folder of videos or images by any tool, only read; repeatable.  (docs/media.md)"),
    ] = None,
    domain: Annotated[
        str | None, typer.Option(help="open or sprites: whose prompts --media shows.  \\[its manifest's, else open]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where results go; with all, in a folder a suite.  \\[bench]")
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(help="raft=, dinov3= or lpips_trunk=, a FILE or folder; repeatable.  \\[the libraries' caches]"),
    ] = None,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Fetch weights not found so, by their own libraries, into their caches.")
    ] = False,
    prompts: Annotated[Path | None, typer.Option(help="A JSON Lines file instead of the suite's own.")] = None,
    first_frames: Annotated[
        Path | None,
        typer.Option(help="For motion-i2v: a folder by prepare-i2v, or of ID.png.  \\[rendered, for sprites]"),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many prompts.")] = None,
    dynamic_degree: Annotated[
        str, typer.Option(help="pdmd, or vbench: VBench's own class, slower, installed apart.")
    ] = "pdmd",
    steps: Annotated[int | None, typer.Option(help="A teacher's sampling steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="A teacher's guidance weight w.")] = None,
    negative_prompt: Annotated[
        str | None, typer.Option(help="What that goes away from.  \\[the family's own, mostly empty]")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Samples made at once; another number changes roundings.")] = 8,
    clips: Annotated[
        bool, typer.Option("--clips", help="For diversity: clips, not images; pairs are of their middle frames.")
    ] = False,
    lossless: Annotated[bool, typer.Option("--lossless", help="Write videos as FFV1, not H.264.")] = False,
    device: Annotated[str, typer.Option(help="Where networks run, in torch's names: cpu, cuda, cuda:1.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="Of their matrix products: float32 or bfloat16.")] = "float32",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Generate a suite's samples and measure them, or measure a folder of media.

    Under torchrun (torchrun --nproc-per-node N -m pdmd bench ...) each process makes its share of the samples.
    """
    from pdmd.run import newest_finished
    from pdmd.sample import load_model
    from pdmd.teachers import compute_in

    from . import provenance, shards
    from .run import run_suite
    from .suites import ALL, FIRST_FRAMES, get_suite, suites_for

    if action and (action != "prepare-i2v" or media or len(model or []) > 1):
        raise UserError(f"pdmd bench {action}: the only action is prepare-i2v, with one --model and no --media")
    if suite != ALL:
        get_suite(suite)
    elif prompts:
        raise UserError("--prompts is a file for one suite; name it in place of --suite all")
    elif media:
        raise UserError("--media shows one suite; name it in place of --suite all")
    if clips and suite != "diversity":
        raise UserError("--clips is for --suite diversity; the other suites are of clips")
    if domain and not media:
        raise UserError("--domain says whose prompts --media shows; there is no --media")
    if media and (steps, guidance, negative_prompt) != (None, None, None):
        raise UserError("--steps, --guidance, --negative-prompt: a teacher samples by them; --media is made already")
    if batch_size < 1:
        raise UserError(f"--batch-size {batch_size}: at least one sample is made at once")
    compute, shard, command = compute_in(device, dtype), shards.from_environment(), provenance.command()
    if not model and not media:
        newest = newest_finished()
        model = [str(newest or "sprites")]
        command = provenance.command("--model", *model)
        if shard.rank == 0:
            print(f"benchmarking {model[0]} ({'the newest finished run' if newest else 'no finished run in runs/'})")
    files = {name: Path(file) for name, file in (_pair(text) for text in weights or [])}
    models = [
        load_model(name, steps=steps, guidance=guidance, compute=compute, negative_prompt=negative_prompt)
        for name in model or []
    ]
    if action:
        _prepare_i2v(models[0], prompts, limit, out or Path("bench/first-frames"), batch_size, quiet, shard)
        return
    chosen = [get_suite(suite)] if suite != ALL else suites_for([m.domain for m in models], models[0].first_frames)
    if first_frames and not all(one.first_frames for one in chosen):
        raise UserError(f"--first-frames is for suite {FIRST_FRAMES}")
    for one in chosen:
        folder = (out or Path("bench")) / one.name if suite == ALL or out is None else out
        results = run_suite(
            one,
            models,
            folder,
            files,
            batch_size=batch_size,
            prompts=prompts,
            limit=limit,
            dynamic_degree=dynamic_degree,
            quiet=quiet or shard.rank > 0,
            media=media or (),
            domain=domain,
            lossless=lossless,
            first_frames=first_frames,
            clips=clips,
            fetch=fetch,
            device=device,
            shard=shard,
            command=command,
        )
        for path in results:
            print(f"report: {path.with_name('report.md')} and report.html")
        if len(results) > 1 and (folder / "report.md").is_file():
            print(f"report: {folder / 'report.md'} and report.html")


def _prepare_i2v(
    model: Model, prompts: Path | None, limit: int | None, out: Path, batch_size: int, quiet: bool, shard: Shard
) -> None:
    """Make the first frames of the motion-i2v suite, or of the user's own `prompts`, into `out`."""
    from dataclasses import replace

    from .first_frames import prepare
    from .run import a_bar, progress_bars
    from .suites import FIRST_FRAMES, get_suite, load_prompts

    suite = get_suite(FIRST_FRAMES)
    pairs = load_prompts(suite, model.domain, prompts)
    pairs = replace(pairs, prompts=pairs.prompts[:limit])
    with progress_bars(quiet or shard.rank > 0) as bars:
        made = prepare(suite, pairs, model, out, batch_size, a_bar(bars, f"{model.name}: first frames"), shard)
    print(f"{len(made)} first frames: {out / 'manifest.jsonl'}")


def _pair(text: str) -> tuple[str, str]:
    name, equals, file = text.partition("=")
    if not equals:
        raise UserError(f"--weights {text!r}: expected NAME=FILE")
    return name, file


def report(
    results: Annotated[list[Path], typer.Argument(help="result.json files, or their folders, of one suite.")],
    out: Annotated[Path, typer.Option(help="The folder of report.md and report.html.")] = Path("report"),
) -> None:
    """Put several results into one table and one page."""
    from .several import report as report_several

    for path in report_several(results, out):
        print(path)


def compare(
    baseline: Annotated[Path, typer.Argument(help="The old result.json, or its folder.")],
    new: Annotated[Path, typer.Argument(help="The new one.")],
    gates: Annotated[Path | None, typer.Option(help="A TOML file (docs/comparison.md).  \\[the suite's own]")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write a pull-request comment to this file.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with the prompts that moved most to this file.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML to this file.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write everything as JSON to this file.")] = None,
    other_noise: Annotated[
        bool, typer.Option("--other-noise", help="The seeds may differ; as many a prompt are needed all the same.")
    ] = False,
    without_fidelity: Annotated[
        bool, typer.Option("--without-fidelity", help="Accept results that have none, as those of open prompts.")
    ] = False,
    accept: Annotated[bool, typer.Option("--accept", help="Make the new result the baseline; needs --reason.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why; kept in the baseline's result.json.")] = None,
) -> None:
    """Compare two results prompt by prompt; exit code 1 where a gate fails, 2 where they cannot be compared."""
    from pdmd.files import write_text

    from . import compare_html, compare_report
    from .accept import accept as accept_new
    from .compare import compare as compare_results

    if accept != (reason is not None):
        raise UserError("--accept and --reason TEXT go together")
    if accept and html:
        raise UserError("--accept replaces the baseline that --html would show; compare with --html first")
    how = {"same_noise": not other_noise, "without_fidelity": without_fidelity}
    done = accept_new(baseline, new, reason, gates, **how) if reason is not None else None
    comparison = done.comparison if done else compare_results(baseline, new, gates, **how)
    if comparison:
        compare_report.show(comparison)
        write = ((markdown, compare_report.markdown), (junit, compare_report.junit), (json, compare_report.as_json))
        for path, text in write:
            if path:
                write_text(path, text(comparison))
        if html:
            write_text(html, compare_html.page(comparison, html.parent))
    if done:
        print(f"baseline: {done.path} ({done.entry['comparison']})")
    elif comparison and not comparison.passed:
        raise typer.Exit(1)
