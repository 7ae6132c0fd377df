"""The five methods side by side at one budget of generator steps, on the embedded teachers.

    python -m pdmd.benchmark.methods [--teacher sprites] [--runs runs/methods] [--out reports/methods]

Trains what is not yet trained (a killed run goes on where it was), then writes OUT/TEACHER.md with a
row a method: on `sprites` the motion suite and the probe's diversity, on `mixture` what was kept of the
modes. Each row names its command.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from pdmd.config import Config, make_config
from pdmd.files import write_text
from pdmd.plan import METHODS
from pdmd.run import Run
from pdmd.sample import Guided, Model, Student, load_model
from pdmd.teachers import load_teacher
from pdmd.teachers.mixture import Mixture
from pdmd.train import prepare, train

from .provenance import commit_text
from .report import grid
from .result import load
from .run import run_suite
from .suites import get_suite

MIXTURE_SAMPLES = 8192


def trained(folder: Path, config: Config) -> Run:
    """The finished run of a configuration, trained here as far as it is not."""
    resume = (folder / "config.json").is_file()
    run = Run.reopen(folder) if resume else Run.create(folder, config)
    if not (run.student / "student.json").is_file():
        has = resume and any(run.checkpoints.glob("step-*.json"))

        def report(step: int, total: int, *_: object) -> None:
            if step % 100 == 0 or step == total:
                print(f"{folder.name}: {step} of {total} generator steps", flush=True)

        train(run, prepare(run.config), has, report, print)
    return run


def last_figures(run: Run) -> dict[str, float]:
    """The last health figures, and the seconds that all generator steps took."""
    rows = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    figures = {name: value for row in rows for name, value in row.items() if "/" in name}
    return figures | {"minutes": sum(row.get("seconds", 0.0) for row in rows) / 60}


def mixture_row(model: Guided | Student) -> dict[str, str]:
    """What samples of the model kept of the mixture's modes."""
    teacher = model.teacher
    assert isinstance(teacher, Mixture)
    with torch.no_grad():
        modes = teacher.measure(model.latents([""] * MIXTURE_SAMPLES, range(MIXTURE_SAMPLES), None))
    return {
        "modes covered": f"{modes.coverage:.2f}",
        "TV of mode weights": f"{modes.weights_tv:.3f}",
        "spread within a mode / true": f"{modes.spread:.2f}",
    }


def motion_row(model: Model, out: Path) -> dict[str, str]:
    """The motion suite's figures with their 95 % intervals."""
    (path,) = run_suite(get_suite("motion"), [model], out, quiet=True)
    row = {}
    for metric in load(path).metrics:
        bounds = f" ({metric.interval.low:.3f} to {metric.interval.high:.3f})" if metric.interval else ""
        row[metric.name] = f"{metric.value:.3f}{bounds}"
    return row


def table(rows: dict[str, dict[str, str]]) -> str:
    """A Markdown table with a row a method."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    return grid(("", *columns), [(method, *(row.get(c, "") for c in columns)) for method, row in rows.items()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="sprites", choices=("sprites", "mixture"))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--runs", type=Path, default=Path("runs/methods"))
    parser.add_argument("--out", type=Path, default=Path("reports/methods"))
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", metavar="KEY=VALUE")
    args = parser.parse_args()
    teacher = load_teacher(args.teacher)
    rows: dict[str, dict[str, str]] = {}
    commands = []
    for method in (None, *args.methods):
        name = method or "teacher"
        row: dict[str, str] = {}
        if method:
            folder = args.runs / f"{args.teacher}-{method}"
            run = trained(folder, make_config(method, args.teacher, None, args.overrides))
            figures = last_figures(run)
            settings = "".join(f" --set {text}" for text in args.overrides)
            commands.append(f"pdmd train --method {method} --teacher {args.teacher}{settings} --out {folder}")
            row = {"steps": str(len(run.config.plan().experts)), "minutes": f"{figures['minutes']:.1f}"}
            model = load_model(str(folder))
            distance, reference = figures.get("probe/distance"), figures.get("teacher/distance")
        else:
            model = Guided(teacher)
            row = {"steps": str(teacher.steps), "minutes": ""}
            distance = reference = None
        if args.teacher == "mixture":
            assert isinstance(model, Guided | Student)
            row |= mixture_row(model)
        else:
            row |= motion_row(model, args.runs / "bench")
            row["probe distance / teacher's"] = f"{distance / reference:.2f}" if distance and reference else "1"
        rows[name] = row
    note = (
        f"n = {MIXTURE_SAMPLES} samples." if args.teacher == "mixture" else "In brackets, 95 % intervals over prompts."
    )
    text = f"""# The methods on `{args.teacher}`

{table(rows)}

{note} Training seed 0, the same number of generator steps for every method, CPU,
commit {commit_text()}. Written by
`python -m pdmd.benchmark.methods --teacher {args.teacher}`, which runs:

""" + "\n".join(f"    {command}" for command in commands)
    write_text(args.out / f"{args.teacher}.md", text + "\n")
    print(args.out / f"{args.teacher}.md")


if __name__ == "__main__":
    main()
