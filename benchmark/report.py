"""result.json -> report.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from .result import Metric, Result, kind

#: What a suite's numbers cannot be read without.
NOTES = {
    "diversity": "Diversity also rises with noise and artefacts: read it beside fidelity only. "
    "n counts prompts, each of them over all its seeds.",
    "motion": "Motion also rises with noise and artefacts: read it beside fidelity only.",
}


def escape(text: str) -> str:
    """Any text as inert Markdown inside a line, also in a table: no markup, HTML, mathematics or link."""
    return re.sub(r"([\\`*_{}\[\]#!|<>&~$]|:(?=//))", r"\\\1", " ".join(text.split()))


def number(metric: Metric | None) -> str:
    """A value with its interval: "0.163 (0.151 to 0.176)"; a dash where there is none."""
    if metric is None:
        return "–"
    interval = metric.interval
    return f"{metric.value:.4g}" + (f" ({interval.low:.4g} to {interval.high:.4g})" if interval else "")


def table(results: Sequence[Result], labels: Sequence[str] = ()) -> str:
    """One row a model, fidelity first, then every metric that any of them has; intervals at 95 %. `labels` stand in
    for the models' names."""
    names = list(dict.fromkeys(["fidelity", *(m.name for result in results for m in result.metrics)]))
    units = {m.name: m.unit for result in results for m in result.metrics}
    head = ["model", "n", *(escape(f"{name} ({units[name]})" if name in units else name) for name in names)]
    rows = [
        [
            escape(label),
            f"{min((m.n for m in r.metrics), default=0)} of {r.expected}",
            *(number(r.metric(n)) for n in names),
        ]
        for label, r in zip(labels or [r.model for r in results], results, strict=True)
    ]
    return grid(head, rows)


def grid(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table of these cells as they are."""
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (head, ["---"] * len(head), *rows))


def markdown(result: Result, pictures: Mapping[str, str]) -> str:
    """The report of one result. `pictures` are the captions of files beside it, by name."""
    flags = [escape(q) for m in result.metrics for q in m.details.get("quirks", [])]
    lines = [f"# {escape(result.suite)}: {escape(result.model)}", "", table([result]), ""]
    lines += [f"In brackets, 95 % intervals over prompts. {note(result.suite)}", ""]
    lines += [f"> {flag}" for flag in flags] + [""] * bool(flags)
    for metric in result.metrics:
        details = ", ".join(
            f"{k.replace('_', ' ')} " + (f"({_plain(v)})" if isinstance(v, dict) else _plain(v))
            for k, v in metric.details.items()
            if v not in ([], None)
        )
        paper = "comparable" if metric.comparable_with_paper else "not comparable"
        interval = escape(metric.interval.method) if metric.interval else "none, too few samples"
        lines.append(
            f"- **{escape(metric.name)}**: {metric.direction} is {kind(metric.name).means}; n = {metric.n}, "
            f"missing {metric.missing}; estimator {escape(metric.estimator)}; {paper} with the paper's table; "
            f"{escape(details)}; interval: {interval}."
        )
    for name, caption in pictures.items():
        lines += ["", f"{caption}:", "", f"![{caption}]({name})"]
    if result.missing:
        rows = [(escape(m.metric), escape(m.reason), f"`{m.command}`") for m in result.missing]
        lines += ["", "## Missing", "", grid(("metric", "why", "the command that gets it"), rows)]
    if result.problems:
        lines += ["", "## What went wrong", ""]
        lines += [f"- {escape(i)}: {escape('; '.join(sorted(set(p.values()))))}" for i, p in result.problems.items()]
    lines += ["", "## Where it comes from", ""]
    lines += [f"- {key}: {escape(value)}" for key, value in facts(result).items()]
    return "\n".join(lines) + "\n"


def facts(result: Result) -> dict[str, str]:
    """Where a result comes from, in words."""
    generation, origin = result.generation, result.provenance
    suite, prompts = generation.get("suite", {}), generation.get("prompts", {})
    if first_frames := generation.get("first_frames", {}).get("sha256"):
        prompts = prompts | {"first frames' sha256": first_frames}
    return {
        "model": _plain(generation.get("model", {})),
        "prompts": _plain(prompts),
        "seeds": f"{_plain(suite.get('seeds'))}; each prompt its own noise: {suite.get('own_noise')}",
        "media": _plain(generation.get("media", {})),
        **({"computed": _plain(generation["computed"])} if "computed" in generation else {}),
        "made": f"{origin.get('created')} by {origin.get('command')}",
        "code": f"git {_plain(origin.get('git'))}; {_plain(origin.get('packages'))}; {origin.get('platform')}",
    }


def note(suite: str) -> str:
    """The note of a suite's family: motion-i2v has motion's."""
    return NOTES.get(suite.split("-")[0], "")


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    return f"{value:.4g}" if isinstance(value, float) else "none" if value is None else str(value)
