"""What tests/test_parallel.py runs in each of two processes, and in one.

torchrun --nproc-per-node 2 tests/several.py FOLDER NAME ...    # runs of RUNS; `faults`: what is stopped and killed
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from pdmd import parallel
from pdmd.config import make_config
from pdmd.errors import UserError
from pdmd.run import Run
from pdmd.train import Interrupted, prepare, train

SMALL = ("generator_steps=6", "batch=4", "fits=1", "prompt_count=4", "probe_every=0", "checkpoint_every=2", "keep=9")
LORA = ("student=lora", "student_rank=2")
#: name -> method, teacher, settings. The teacher `wan`, in FOLDER, has two experts.
RUNS = {
    "mixture": ("phased", "mixture", (*SMALL, "batch=16", "pool=31", "ema=0.5", "lr=1e-3")),
    "full": ("few-step", "wan", (*SMALL, "generator_steps=2", "student=full", "fake=full")),
    "lora": (
        "phased",
        "wan",
        (*SMALL, *LORA, "fake=lora", "fake_rank=2", "pool=5", "checkpointing=true", "ema=0.5"),
    ),
    "context": ("few-step", "wan", (*SMALL, "generator_steps=2", "student=full", "fake=full", "context={size}")),
    "context-lora": (
        "phased",
        "wan",
        (*SMALL, *LORA, "fake=lora", "fake_rank=2", "pool=5", "checkpointing=true", "accumulate=2", "context={size}"),
    ),
    "paper": ("phased", "wan", (*SMALL, *LORA, "fake=full", "pool=0", "accumulate=2", "checkpointing=true")),
}
CUT = 4  # the step after which a run is stopped or killed: the first of the second phase, whose optimisers have moments


def begin(folder: Path, name: str, run: str) -> Run:
    """A new run in FOLDER/NAME as `RUNS` has it."""
    method, teacher, settings = RUNS[run]
    settings = [setting.format(size=parallel.size()) for setting in settings]
    teacher = str(folder / teacher) if teacher == "wan" else teacher
    return Run.create(folder / name, make_config(method, teacher, None, settings))


def go(run: Run, resume: bool = False, at_cut: Callable[[], object] = lambda: None) -> None:
    """Train to the end; `at_cut` is called after step CUT."""

    def report(step: int, *_: object) -> None:
        if step == CUT:
            at_cut()

    train(run, prepare(run.config), resume, report, lambda text: None)


def stop(number: int) -> Callable[[], object]:
    """The last process alone gets a signal."""
    return lambda: os.kill(os.getpid(), number) if parallel.rank() == parallel.size() - 1 else None


def faults(folder: Path) -> None:
    """Runs that are stopped, the runs `begun-...` to their end, and one that is killed."""
    for name in ("mixture", "lora"):
        try:
            go(begin(folder, f"stopped-{name}", name), at_cut=stop(signal.SIGTERM))
        except Interrupted as interrupted:
            print(f"{name} stopped at {interrupted}", flush=True)
        go(Run.reopen(folder / f"begun-{name}"), resume=True)
    go(begin(folder, "killed", "mixture"), at_cut=stop(signal.SIGKILL))


def main(folder: Path, names: list[str]) -> None:
    with parallel.joined():
        count = "one" if parallel.size() == 1 else "two"
        for name in names:
            if name == "faults":
                faults(folder)
            else:
                go(begin(folder, f"{count}-{name}", name))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, to the others of a killed one: they end by themselves
    try:
        main(Path(sys.argv[1]), sys.argv[2:])
    except UserError as error:
        print(f"pdmd: {error}", file=sys.stderr)
        sys.exit(2)
