"""Do the gates catch a trainer that is broken on purpose?

    python -m pdmd.benchmark.broken

trains the default phased student whole, with the naive target and with disjoint intervals, and samples the whole one
without its first expert too; runs the suites on each, compares each with reports/baselines/, and writes
reports/broken/README.md: which gates failed. Resumable; the students are kept under runs/broken/. Exit code 1 where
a broken one passed every gate, or the whole one failed one.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from pdmd.files import write_text

from .compare import compare
from .provenance import commit_text

#: What is broken: settings of the training, beside the defaults.
TRAINED = {"naive target": "target=naive", "disjoint intervals": "interval=disjoint"}
SKIPPED = "first expert skipped"


def pdmd(*words: str | Path) -> None:
    """Run a public command. Raises CalledProcessError where it fails."""
    subprocess.run([sys.executable, "-m", "pdmd", *map(str, words)], check=True)


def train(run: Path, *settings: str) -> None:
    """The default phased student with these settings, or what is left of its training."""
    if (run / "config.json").is_file():
        pdmd("train", "--resume", "--out", run)
    else:
        pdmd("train", "--method", "phased", "--out", run, *[word for s in settings for word in ("--set", s)])


def skip_first(student: Path, to: Path) -> None:
    """A copy of a student's folder in which the second expert takes the first one's steps too."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(student, to)
    shutil.copytree(student / "transformer_2", to / "transformer", dirs_exist_ok=True)


def failed_gates(baselines: Path, bench: Path) -> list[str]:
    """The gates, as "suite metric", that the results in `bench`, a folder a suite, fail against `baselines`."""
    failed = []
    for new in sorted(path.parent for path in bench.glob("*/*/result.json")):
        suite = new.parent.name
        failed += [f"{suite} {metric}" for metric in compare(baselines / suite, new).failed]
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/broken"))
    parser.add_argument("--baselines", type=Path, default=Path("reports/baselines"))
    parser.add_argument("--out", type=Path, default=Path("reports/broken"))
    args = parser.parse_args()
    students = {}
    for name, setting in ({"whole": ""} | TRAINED).items():
        run = args.runs / name.replace(" ", "-")
        train(run, *[setting] * bool(setting))
        students[name] = run / "student"
    skipped = args.runs / SKIPPED.replace(" ", "-")
    skip_first(students["whole"], skipped)
    rows, caught = [], True
    for name, student in (students | {SKIPPED: skipped}).items():
        bench = args.runs / "bench" / name.replace(" ", "-")
        pdmd("bench", "--suite", "all", "--model", student, "--out", bench, "--quiet")
        failed = failed_gates(args.baselines, bench)
        caught &= bool(failed) != (name == "whole")
        rows.append(f"| {name} | {', '.join(failed) or 'none'} |")
    text = [
        "# Broken on purpose",
        "",
        f"`python -m pdmd.benchmark.broken`, commit {commit_text()}.",
        "",
    ]
    text += ["| student | gates that failed |", "|---|---|", *rows, ""]
    write_text(args.out / "README.md", "\n".join(text))
    print("\n".join(rows))
    sys.exit(0 if caught else 1)


if __name__ == "__main__":
    main()
