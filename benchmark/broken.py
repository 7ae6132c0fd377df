"""Do the gates catch a trainer that is broken on purpose, and pass one that is not?

    python -m pdmd.benchmark.broken

trains the default phased student whole; whole again with the arithmetic of an older processor; with the naive target;
with disjoint intervals. The whole one is also sampled without its first expert, and once more with other noise. Each
goes through the suites and is compared with the whole one: by the gates of a retraining, which stand beside the
baselines, or, where the noise is another, by those that ship. Writes reports/broken/README.md, which gates failed, and
the results, which a test compares again. Resumable; students and samples are kept under runs/broken/. Exit code 1 where
a broken one passed every gate, or a sound one failed one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pdmd.files import seal, write_text
from pdmd.sample import load_model

from .compare import Comparison, compare
from .compare_report import amount, change_text
from .gates import NOT_MEASURED
from .provenance import commit_text
from .report import grid
from .run import run_suite
from .sides import BESIDE
from .suites import SUITES

#: The suites of the embedded text-to-video teacher.
ASKED = ("diversity", "motion")
WHOLE = "whole"
#: What makes torch's own kernels, oneDNN and MKL compute as on a processor without AVX-512.
OLDER = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
OTHER_NOISE = 1_000_000  # added to every seed


@dataclass(frozen=True)
class Case:
    """A student: settings of its training beside the defaults, and the environment of it; `of` is another case whose
    student it shares, without its first expert (`skip`) or with its noise drawn anew (`anew`)."""

    name: str
    broken: bool = False
    settings: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    of: str | None = None
    skip: bool = False
    anew: bool = False


CASES = (
    Case(WHOLE),
    Case("on an older processor", environment=OLDER),
    Case("another draw of the noise", of=WHOLE, anew=True),
    Case("naive target", broken=True, settings=("target=naive",)),
    Case("disjoint intervals", broken=True, settings=("interval=disjoint",)),
    Case("first expert skipped", broken=True, of=WHOLE, skip=True),
)


def slug(name: str) -> str:
    return name.replace(" ", "-")


def train(run: Path, case: Case) -> None:
    """The default phased student of a case, or what is left of its training. Raises CalledProcessError."""
    settings = [word for text in case.settings for word in ("--set", text)]
    words = ["--resume"] if (run / "config.json").is_file() else ["--method", "phased", *settings]
    command = [sys.executable, "-m", "pdmd", "train", *words, "--out", str(run)]
    subprocess.run(command, check=True, env=os.environ | case.environment)


def skip_first(student: Path, to: Path) -> None:
    """A copy of a student's folder in which the second expert takes the first one's steps too."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(student, to)
    shutil.copytree(student / "transformer_2", to / "transformer", dirs_exist_ok=True)
    seal(to)


def student(runs: Path, case: Case) -> Path:
    """A case's student, made as far as it is not there."""
    run = runs / slug(case.of or case.name)
    train(run, next(c for c in CASES if c.name == (case.of or case.name)))
    if not case.skip:
        return run / "student"
    skipped = runs / slug(case.name)
    skip_first(run / "student", skipped)
    return skipped


def measure(case: Case, folder: Path, runs: Path, results: Path) -> None:
    """Run the suites on a case's student and keep its results: the files that a comparison reads."""
    model = load_model(str(folder))
    for name in ASKED:
        suite = SUITES[name]
        if case.anew:
            suite = replace(suite, seeds=tuple(seed + OTHER_NOISE for seed in suite.seeds))
        (path,) = run_suite(suite, [model], runs / "bench" / slug(case.name) / name, quiet=True)
        kept = results / slug(case.name) / name
        kept.mkdir(parents=True, exist_ok=True)
        for file in ("result.json", *BESIDE):
            if (path.parent / file).is_file():
                shutil.copyfile(path.parent / file, kept / file)


def against_whole(case: Case, results: Path, baselines: Path) -> list[Comparison]:
    """A case's results compared with those of the whole student, suite by suite."""
    made = []
    for suite in ASKED:
        pair = [results / slug(name) / suite for name in (WHOLE, case.name)]
        gates = None if case.anew else baselines / suite / "gates.toml"
        made.append(compare(pair[0], pair[1], gates, same_noise=not case.anew))
    return made


def right(case: Case, comparisons: list[Comparison]) -> bool:
    """Whether the gates said of a case what is true of it."""
    return case.broken == any(not one.passed for one in comparisons)


def report(made: Mapping[str, list[Comparison]]) -> str:
    """Which gates failed, and every gate's figures."""
    cases = {case.name: case for case in CASES}
    rows, figures = [], []
    for name, comparisons in made.items():
        failed = [f"{one.suite} {metric}" for one in comparisons for metric in one.failed]
        wanted = "a gate fails" if cases[name].broken else "none fails"
        rows.append((name, wanted, ", ".join(failed) or "none", "" if right(cases[name], comparisons) else "**WRONG**"))
        for one in comparisons:
            gates = {outcome.metric: outcome for outcome in one.outcomes if outcome.status != NOT_MEASURED}
            for change in (c for c in one.changes if c.metric in gates):
                gate = gates[change.metric]
                cells = (change_text(change), amount([gate.margin], change.scale), gate.status)
                figures.append((name, one.suite, change.metric, f"{change.old:.4f}", f"{change.new:.4f}", *cells))
    return f"""# Broken on purpose

`python -m pdmd.benchmark.broken`, commit {commit_text()}.

{grid(("student", "wanted", "gates that failed", ""), rows)}

One training seed (0), the default student, the whole suites (diversity: 21 prompts x 8 seeds; motion: 220 prompts);
each set against the whole one. "On an older processor" is the same training by the kernels of a processor without
AVX-512 ({", ".join(f"`{k}={v}`" for k, v in OLDER.items())}): what a
retraining elsewhere may differ by. "Another draw of the noise" is the whole student sampled with other seeds, set
against itself by the gates that ship; all others share their noise and are judged by the gates of a retraining,
`reports/baselines/SUITE/gates.toml`.

{grid(("student", "suite", "metric", "whole", "it", "change (95 %)", "margin", "gate"), figures)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/broken"))
    parser.add_argument("--baselines", type=Path, default=Path("reports/baselines"))
    parser.add_argument("--out", type=Path, default=Path("reports/broken"))
    args = parser.parse_args()
    results = args.out / "results"
    for case in CASES:
        measure(case, student(args.runs, case), args.runs, results)
        print(f"{case.name}: measured", flush=True)
    made = {case.name: against_whole(case, results, args.baselines) for case in CASES if case.name != WHOLE}
    text = report(made)
    write_text(args.out / "README.md", text)
    print(text)
    sys.exit(0 if all(right(case, made[case.name]) for case in CASES if case.name in made) else 1)


if __name__ == "__main__":
    main()
