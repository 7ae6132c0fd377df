"""The speed script on a tiny network: what it writes, and that the floor and the FLOPs are of the calls of a step."""

import json
from collections import Counter

import torch

from pdmd import speed
from pdmd.teachers import Compute, Lora


def test_a_family_of_random_weights_is_measured(tmp_path, monkeypatch):
    settings = [f"--set={s}" for s in ("fake=lora", "batch=2", "fits=1", "pool=2", "prompt_count=2", "student_rank=2")]
    family = ["--family", "wan-tiny", "--size", "32x32x5", "--repeats", "1", "--out", str(tmp_path / "a.json")]
    monkeypatch.setattr("sys.argv", ["speed", *family, *settings])
    speed.main()
    written = json.loads((tmp_path / "a.json").read_text())
    assert "--family wan-tiny --size 32x32x5" in written["command"]
    assert [row["stage"] for row in written["rows"]] == [1, 2]
    for row in written["rows"]:
        assert row["step / floor"] > 0  # how fast is for the report, not for a test
        assert row["peak memory, GB"] > 0
        assert row["model TFLOP a step"] > 0


def test_operations_of_a_backward_pass():
    """A whole network's takes two forward passes, an adapter's, whose base has no gradient, one."""
    teacher = speed.random_teacher("wan-tiny", (32, 32, 5), Compute(), 8)
    shape, cond = (2, *teacher.shape(5)), teacher.encode(["", ""])
    whole, adapter = teacher.network(), teacher.network(1.0, Lora("a", 1, 1, 0))

    def count(graph: bool, net: torch.nn.Module | None) -> float:
        return speed.flops(teacher, Counter({(shape, graph, net): 1}), cond)

    assert count(True, whole) == 3 * count(False, whole) > 0
    assert count(True, adapter) == 2 * count(False, adapter)
    assert count(False, None) == 2 * count(False, whole)  # guided, with its own adapters off
