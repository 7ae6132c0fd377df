"""result.json -> report.md with pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pdmd.errors import UserError

from .files import write_whole
from .media import contact_sheet, read_video
from .result import Metric, Result
from .score import Item

CLIPS = 8
STRIP = 5  # frames of each clip


def escape(text: str) -> str:
    """Any text as inert Markdown inside a line, also in a table: no markup, HTML, mathematics or link."""
    return re.sub(r"([\\`*_{}\[\]#!|<>&~$]|:(?=//))", r"\\\1", " ".join(text.split()))


def number(metric: Metric | None) -> str:
    """A value with its interval: "0.163 (0.151 to 0.176)"; a dash where there is none."""
    if metric is None:
        return "–"
    interval = metric.interval
    return f"{metric.value:.4g}" + (f" ({interval.low:.4g} to {interval.high:.4g})" if interval else "")


def table(results: Sequence[Result]) -> str:
    """One row a model, fidelity first, then every metric that any of them has; intervals at 95 %."""
    names = list(dict.fromkeys(["fidelity", *(m.name for result in results for m in result.metrics)]))
    units = {m.name: m.unit for result in results for m in result.metrics}
    head = ["model", "samples", *(escape(f"{name} ({units[name]})" if name in units else name) for name in names)]
    rows = [
        [
            escape(r.model),
            f"{min((m.n for m in r.metrics), default=0)} of {r.expected}",
            *(number(r.metric(n)) for n in names),
        ]
        for r in results
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows))


def markdown(result: Result, pictures: Sequence[str] = ()) -> str:
    """The report of one result. `pictures` are file names beside it."""
    generation, origin = result.generation, result.provenance
    prompts, media = generation.get("prompts", {}), generation.get("media", {})
    flags = [escape(q) for m in result.metrics for q in m.details.get("quirks", [])]
    lines = [f"# {escape(result.suite)}: {escape(result.model)}", "", table([result]), ""]
    lines += [
        "In brackets, 95 % intervals over prompts. Motion also rises with noise and artefacts: "
        "read it beside fidelity only.",
        "",
    ]
    lines += [f"> {flag}" for flag in flags] + [""] * bool(flags)
    for metric in result.metrics:
        details = ", ".join(
            f"{k.replace('_', ' ')} {_plain(v)}" for k, v in metric.details.items() if v not in ([], None)
        )
        better = "better" if metric.name == "fidelity" else "more motion"
        paper = "comparable" if metric.comparable_with_paper else "not comparable"
        interval = escape(metric.interval.method) if metric.interval else "none, too few samples"
        lines.append(
            f"- **{escape(metric.name)}**: {metric.direction} is {better}; n = {metric.n}, missing {metric.missing}; "
            f"estimator {escape(metric.estimator)}; {paper} with the paper's table; {escape(details)}; "
            f"interval: {interval}."
        )
    lines += ["", *(f"![{name}]({name})" for name in pictures)]
    if result.missing:
        lines += ["", "## Missing", "", "| metric | why | the command that gets it |", "| --- | --- | --- |"]
        lines += [f"| {escape(m.metric)} | {escape(m.reason)} | `{m.command}` |" for m in result.missing]
    if result.problems:
        lines += ["", "## Samples with problems", ""]
        lines += [f"- {escape(i)}: {escape('; '.join(sorted(set(p.values()))))}" for i, p in result.problems.items()]
    lines += ["", "## Where it comes from", ""]
    suite, model = generation.get("suite", {}), generation.get("model", {})
    facts = {
        "model": _plain(model),
        "prompts": _plain(prompts),
        "seeds": f"{_plain(suite.get('seeds'))}; each prompt its own noise: {suite.get('own_noise')}",
        "media": _plain(media),
        "made": f"{origin.get('created')} by {origin.get('command')}",
        "code": f"git {_plain(origin.get('git'))}; {_plain(origin.get('packages'))}; {origin.get('platform')}",
    }
    lines += [f"- {key}: {escape(value)}" for key, value in facts.items()]
    return "\n".join(lines) + "\n"


def joint_markdown(results: Sequence[Result], folders: Sequence[str]) -> str:
    """One table of several results and links to their reports."""
    lines = [f"# {escape(results[0].suite)}", "", table(results), ""]
    lines += ["In brackets, 95 % intervals over prompts. Read motion beside fidelity only.", ""]
    lines += [f"- [{escape(r.model)}]({folder}/report.md)" for r, folder in zip(results, folders, strict=True)]
    return "\n".join(lines) + "\n"


def draw_clips(path: Path, folder: Path, items: Sequence[Item], flow_name: str) -> None:
    """A picture of up to CLIPS clips, from least to most flow, STRIP frames each beside their prompt."""
    ranked = sorted((i for i in items if flow_name in i.values), key=lambda item: item.values[flow_name])
    if not ranked:
        return
    picked = [ranked[i] for i in sorted(set(np.linspace(0, len(ranked) - 1, CLIPS).round().astype(int)))]
    figure = Figure(figsize=(9, 1.25 * len(picked)), dpi=110, layout="constrained")
    axes = np.ravel(figure.subplots(len(picked), 1))
    for axis, item in zip(axes, picked, strict=True):
        axis.set_axis_off()
        try:
            axis.imshow(contact_sheet([read_video(folder / item.file).frames], STRIP), interpolation="nearest")
        except UserError:
            continue
        facts = f"flow {item.values[flow_name]:.2f} px a frame" + (
            f", fidelity {item.values['fidelity']:.2f}" if "fidelity" in item.values else ""
        )
        words = f"{_wrapped(item.prompt)}\n{item.id}, seed {item.seed}: {facts}"
        axis.text(1.02, 0.5, words, transform=axis.transAxes, va="center", fontsize=9, parse_math=False)
    write_whole(path, lambda part: figure.savefig(part, bbox_inches="tight"))


def draw_flow(path: Path, flows: Sequence[float], unit: str) -> None:
    """A histogram of the clips' flow."""
    figure = Figure(figsize=(6, 2.5), dpi=110, layout="constrained")
    axis = figure.subplots()
    axis.hist(flows, bins=30)
    axis.set(xlabel=f"mean flow of a clip, {unit}", ylabel="clips")
    write_whole(path, lambda part: figure.savefig(part))


def _wrapped(text: str, width: int = 44) -> str:
    lines = [""]
    for word in text.split():
        lines = [*lines[:-1], f"{lines[-1]} {word}".strip()] if len(lines[-1]) + len(word) < width else [*lines, word]
    return "\n".join(lines[:3])


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    return f"{value:.4g}" if isinstance(value, float) else "none" if value is None else str(value)
