"""torchrun shares a suite out over processes; the result is that of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import wan


def bench(command: list[str], model: Path, out: Path) -> None:
    options = ["--suite", "motion", "--model", str(model), "--limit", "5", "--batch-size", "2", "--quiet"]
    done = subprocess.run(
        [*command, "-m", "pdmd", "bench", *options, "--out", str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # as torchrun sets it: sums depend on the threads
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report: ") == 1  # one process measures and says so


@pytest.mark.slow
def test_two_processes_make_the_result_of_one(tmp_path) -> None:
    model = tmp_path / "tiny"
    model.mkdir()
    wan(model, steps=2)
    bench([sys.executable], model, tmp_path / "one")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    bench(torchrun, model, tmp_path / "two")
    one, two = (sorted(p for p in (tmp_path / out).rglob("*") if p.is_file()) for out in ("one", "two"))
    assert [p.relative_to(tmp_path / "one") for p in one] == [p.relative_to(tmp_path / "two") for p in two]
    for a, b in zip(one, two, strict=True):
        if a.name == "result.json":
            made = [json.loads(p.read_text()) for p in (a, b)]
            for result in made:
                result["provenance"].pop("created")
                result["provenance"].pop("command")
            assert made[0] == made[1]
        elif a.suffix in (".mp4", ".csv", ".jsonl"):
            assert a.read_bytes() == b.read_bytes(), a.name
