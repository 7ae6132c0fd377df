"""The plain ways and ours give the same numbers; nothing here is timed."""

from __future__ import annotations

import numpy as np
import pytest

from pdmd import media
from pdmd.benchmark import speed
from pdmd.benchmark.features.lpips import Lpips
from pdmd.benchmark.features.raft import Raft
from pdmd.benchmark.features.vbench import INSTALL, VBench


def test_lpips_pair_by_pair_and_ours_agree_on_every_pair(tmp_path) -> None:
    lpips = Lpips(speed.random_trunk(tmp_path / "alexnet.pth"))
    images = np.random.default_rng(0).integers(0, 256, (4, 40, 40, 3), dtype=np.uint8)
    passes = []
    lpips.net.net.slice1.register_forward_hook(lambda *call: passes.append(len(call[2])))
    plain = speed.plain_lpips(lpips.net, images)
    assert sum(passes) == 2 * 6
    passes.clear()
    ours = speed.ours_lpips(lpips, images)
    assert sum(passes) == 4
    assert len(set(plain)) == 6
    np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-6)


def test_vbench_then_a_flow_pass_and_ours_agree_on_every_number(tmp_path) -> None:
    pytest.importorskip("vbench", reason=f"VBench is not installed: {INSTALL}")
    weights = speed.random_raft(tmp_path / "raft.pth")
    vbench, raft = VBench(weights), Raft(weights)
    path = tmp_path / "clip.mp4"
    media.write_video(path, speed.pan(3, 130), 16)
    plain = speed.plain_motion(vbench, raft.net, path)
    assert plain.shape == (1 + 1 + 2,)  # one score, the verdict, two flows
    assert (plain > 0).all()
    np.testing.assert_allclose(speed.ours_motion(raft, path), plain, rtol=0, atol=1e-5)


def test_compare_takes_turns_and_reports_the_largest_difference() -> None:
    calls: list[str] = []

    def way(name: str, values: list[float]) -> np.ndarray:
        calls.append(name)
        return np.array(values)

    row = speed.compare("x", lambda: way("plain", [1, 2]), lambda: way("ours", [1, 2.5]), repeats=2)
    assert row.difference == 0.5
    assert calls == ["plain", "ours"] * 3
    assert min(row.plain.clock, row.ours.clock) >= 0
    row = speed.Row("x", speed.Seconds(6, 4), speed.Seconds(2, 1), 0.5)
    assert speed.table([row]).splitlines()[-1] == "| x | 6.00 | 2.00 | 3.00 | 4.00 | 5.0e-01 |"


def test_bad_sizes_end_in_one_line(capsys) -> None:
    for arguments in ["--video-size", "64"], ["--video-size", "129"], ["--frames", "1"], ["--fps", "0"]:
        with pytest.raises(SystemExit) as stopped:
            speed.main(arguments)
        assert stopped.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
