"""The project's commands, each with its own environment under .nox/ and all its set-up.

pip install nox
nox -s demo             distil the embedded teacher, measure the student's motion against it, write a report
nox -s tests            the tests, without the minutes-long ones; `nox -s tests -- -k flow` passes on to pytest
nox -s slow             the minutes-long ones
nox -s lint             ruff and mypy
nox -s torture          the tests of faults and hostile files at full size: hours (docs/faults.md)
nox -s audit            known vulnerabilities of the tested set of versions, by pip-audit
nox -s regression       train the default students, run the suites; fails where one is worse than reports/baselines/

The first run of a session installs the set of versions in constraints.txt: on a line to the package index some
minutes, later runs seconds. Without a GPU, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu saves the
gigabytes of CUDA that the package index's torch brings along.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.needs_version = ">=2025.2"
nox.options.sessions = ["tests"]
nox.options.reuse_venv = "yes"

#: No session downloads weights; one that tries is a defect and fails at once instead of hanging.
ENV = {"HF_HUB_OFFLINE": "1"}
#: What a comparison is written as, and its file's ending.
REPORTS = {"markdown": "md", "html": "html", "junit": "xml", "json": "json"}


def install(session: nox.Session) -> None:
    """The package, editable, with the dev extra, in the tested set of versions.

    Editable, because pytest and mypy then see the files in the checkout; benchmark/ and prompts/ still
    import as pdmd.benchmark and pdmd.prompts, as they do from the wheel (tests/test_package.py).
    """
    session.log("installing the tested set of versions: minutes the first time, seconds later")
    session.install("-c", "constraints.txt", "-e", ".[dev]")


def train(session: nox.Session, run: Path, bench: str, teacher: str = "sprites") -> None:
    """The teacher's default phased student, or what is left of its training; its benchmark lies in `bench`."""
    what = ["--method", "phased", "--teacher", teacher]
    if (run / "config.json").exists():
        session.log(f"going on with {run}; to start anew, delete {run} and {bench}")
        what = ["--resume"]
    session.run("pdmd", "train", *what, "--out", str(run), env=ENV)


@nox.session
def tests(session: nox.Session) -> None:
    """The tests, without those marked slow."""
    install(session)
    session.install("--no-deps", "-c", "constraints.txt", "vbench", "decord", "easydict")  # for tests/benchmark
    session.run("pytest", "-m", "not slow", *session.posargs, env=ENV)


@nox.session
def slow(session: nox.Session) -> None:
    """The tests marked slow: minutes each."""
    install(session)
    session.run("pytest", "-m", "slow", *session.posargs, env=ENV)


@nox.session
def torture(session: nox.Session) -> None:
    """Kills, full disks, changed bytes, numbers that are not finite, hostile files and long runs, at full size.

    On Linux as root (a disk is mounted), Python 3.11 to 3.13, with Chromium. What was tried goes to torture.jsonl; the
    table of it comes last. A test that is skipped fails the session, which says what it wants.
    """
    install(session)
    session.install("-c", "constraints.txt", "atheris")
    tried = Path("torture.jsonl").resolve()
    tried.write_text("")
    size = {"PDMD_KILLS": "200", "PDMD_EXAMPLES": "10000", "PDMD_STEPS": "10000", "PDMD_CLIPS": "2000"}
    env = ENV | size | {"PDMD_TORTURE": str(tried)}
    faults = [f"tests/test_{name}.py" for name in ("rot", "numbers", "hostile", "hostile_models", "long")]
    faults += [f"tests/benchmark/test_{name}.py" for name in ("kill", "folders", "browser")]
    failed = []
    for command in ["pytest", *(session.posargs or faults)], ["python", "tests/fuzz.py", size["PDMD_EXAMPLES"]]:
        try:
            session.run(*command, env=env)
        except CommandFailed:
            failed.append(command[1])
    try:
        session.run("python", "tests/tried.py", str(tried))
    except CommandFailed:
        failed.append("what is named above")
    if failed:
        session.error(f"failed: {', '.join(failed)}")


@nox.session
def audit(session: nox.Session) -> None:
    """The tested versions against known vulnerabilities, by pip-audit, which needs pypi.org: docs/licences.md."""
    session.install("pip-audit")
    session.run("pip-audit", "--requirement", "constraints.txt", "--no-deps", "--disable-pip", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff (rules and format) and mypy; all three speak before the session fails."""
    install(session)
    failed = []
    for command in ["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]:
        try:
            session.run(*command)
        except CommandFailed:
            failed.append(" ".join(command))
    if failed:
        session.error(f"failed: {', '.join(failed)}")


@nox.session
def demo(session: nox.Session) -> None:
    """Distil the embedded teacher with Phased DMD, then measure student and teacher on the motion suite."""
    install(session)
    train(session, Path("runs/demo"), "bench/demo")
    bench = ["pdmd", "bench", "--suite", "motion", "--model", "runs/demo", "--model", "sprites", "--out", "bench/demo"]
    session.run(*bench, env=ENV)


@nox.session
def regression(session: nox.Session) -> None:
    """Train the default phased students, run their suites, compare each with its baseline; a failed gate fails it.

    Everything lands under bench/regression/: a Markdown, an HTML and a JUnit file a suite. It begins anew, since what
    another state of the code has left there would be judged in place of this one; `-- --resume` goes on.
    """
    install(session)
    out = Path("bench/regression")
    if "--resume" not in session.posargs:
        for folder in (out, Path("runs/regression")):
            shutil.rmtree(folder, ignore_errors=True)
    for teacher in "sprites", "sprites-i2v":
        run = Path("runs/regression") / teacher
        train(session, run, str(out), teacher)
        session.run("pdmd", "bench", "--suite", "all", "--model", str(run), "--out", str(out), "--quiet", env=ENV)
    failed = []
    for baseline in (Path("reports/baselines") / suite for suite in ("diversity", "motion", "motion-i2v")):
        (new,) = (path.parent for path in (out / baseline.name).glob("*/result.json"))
        files = [f"--{kind}={out / baseline.name}.{end}" for kind, end in REPORTS.items()]
        try:
            gates = f"--gates={baseline / 'gates.toml'}"  # of a retraining: closer than those of two models
            session.run("pdmd", "compare", str(baseline), str(new), gates, *files, env=ENV)
        except CommandFailed:
            failed.append(baseline.name)
    if failed:
        session.error(f"worse than the baseline, or not comparable with it: {', '.join(failed)}")
