"""Parity with VBench's own DynamicDegree, on the same files and the same seeded random weights."""

from __future__ import annotations

import builtins
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from pdmd import media
from pdmd.benchmark import metrics, motion, result
from pdmd.benchmark.features import flow
from pdmd.benchmark.features.raft import Raft
from pdmd.benchmark.features.vbench import INSTALL, VBench
from pdmd.benchmark.generate import Sample
from pdmd.benchmark.score import Media
from pdmd.cli import app
from pdmd.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")  # VBench calls PyTorch in old ways


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Random weights in the layout of raft-things.pth, made by VBench's own network. Louder correlations and a
    quieter flow head than its initialisation bring the scores near the threshold, textured clips over it."""
    pytest.importorskip("vbench", reason=f"VBench is not installed: {INSTALL}")
    from easydict import EasyDict
    from vbench.third_party.RAFT.core.raft import RAFT

    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = RAFT(EasyDict(small=False, mixed_precision=False, alternate_corr=False)).state_dict()
    state["update_block.encoder.convc1.weight"] *= 10
    for name in ("weight", "bias"):
        state[f"update_block.flow_head.conv2.{name}"] *= 0.06
    path = tmp_path_factory.mktemp("vbench") / "raft-things.pth"
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, path)
    return path


@pytest.fixture(scope="module")
def oracle(checkpoint):
    """VBench's class as its own code makes it, on the file itself; keeps the scores of its last clip."""
    from easydict import EasyDict
    from vbench.dynamic_degree import DynamicDegree

    class Oracle(DynamicDegree):
        def check_move(self, score_list):
            self.scores = score_list
            return super().check_move(score_list)

    options = EasyDict(model=str(checkpoint), small=False, mixed_precision=False, alternate_corr=False)
    return Oracle(options, torch.device("cpu"))


@pytest.fixture(scope="module")
def raft(checkpoint) -> Raft:
    return Raft(checkpoint)


def textured(frames: int, height: int, width: int, speed: float, seed: int = 0) -> np.ndarray:
    """Coarse noise that pans to the left by `speed` pixels a frame."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 6, width // 6 + 8, 3), dtype=np.uint8)
    wide = cv2.resize(coarse, (width + 100, height), interpolation=cv2.INTER_CUBIC)
    return np.stack([wide[:, int(i * speed) : int(i * speed) + width] for i in range(frames)])


def grey(frames: int, height: int, width: int) -> np.ndarray:
    return np.full((frames, height, width, 3), 90, np.uint8)


def write_exact(path: Path, frames: np.ndarray, fps: float) -> Path:
    """An .mp4 that any decoder reads back bit by bit, odd sides too: lossless H.264 in RGB."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264rgb", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "rgb24"
        stream.options = {"qp": "0", "preset": "ultrafast"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return path


def ours(raft: Raft, path: Path) -> metrics.Dynamic:
    """Dynamic degree as the suite computes it, without the flow that it computes beside."""
    video = media.read_video(path)
    kept = video.frames[:: metrics.frame_interval(video.fps)]
    return metrics.dynamic([metrics.pair_score(p.padded) for p in raft.pairs(kept)], *video.frames.shape[1:3])


CASES = {
    "8 fps": (8, textured(3, 128, 128, 2)),
    "12 fps": (12, textured(5, 128, 136, 3)),
    "16 fps, an even number": (16, textured(6, 128, 128, 1)),
    "23.976 fps, two kept frames, odd sides": (24000 / 1001, textured(6, 131, 141, 2)),
    "24 fps": (24, textured(7, 128, 128, 3)),
    "24 fps, grey": (24, grey(9, 128, 128)),
    "25 fps": (25, textured(7, 128, 136, 2)),
    "25 fps, two kept frames, odd sides, grey": (25, grey(4, 129, 131)),
    "30 fps": (30, textured(9, 136, 128, 4)),
    "one frame": (8, textured(1, 128, 128, 0)),
    "one kept frame": (30, textured(3, 128, 128, 9)),
}


@pytest.fixture(scope="module")
def both(oracle, raft, tmp_path_factory) -> dict[str, tuple[bool, list[float], dict, metrics.Dynamic]]:
    """VBench's verdict, scores and parameters, and ours, of every case."""
    folder = tmp_path_factory.mktemp("clips")
    found = {}
    for i, (name, (fps, frames)) in enumerate(CASES.items()):
        path = write_exact(folder / f"{i}.mp4", frames, fps)
        found[name] = oracle.infer(str(path)), oracle.scores, oracle.params, ours(raft, path)
    return found


@pytest.mark.parametrize("name", CASES)
def test_scores_threshold_and_verdict_are_vbenchs(name: str, both, parity) -> None:
    verdict, scores, params, own = both[name]
    fps, frames = CASES[name]
    assert len(scores) == -(-len(frames) // metrics.frame_interval(fps)) - 1
    said = f"both {'dynamic' if verdict else 'static'}"
    parity(f"dynamic degree's scores: vbench's class, {name}, {len(frames)} frames; {said}", own.scores, scores, 1e-5)
    assert (own.threshold, own.needed) == (params["thres"], params["count_num"])
    assert own.dynamic is verdict


def test_the_cases_show_both_verdicts_and_the_quirks(both) -> None:
    assert {name for name in CASES if not both[name][0]} == {"24 fps, grey", "one frame", "one kept frame"}
    verdict, scores, params, _ = both["25 fps, two kept frames, odd sides, grey"]
    assert verdict  # by the quirk of two frames, though no pair is over the threshold
    assert max(scores) < params["thres"]


def test_a_folder_of_frames_and_the_suites_own_video_score_alike(oracle, raft, tmp_path) -> None:
    """The codec of the suites is lossy, so here both decode it, each with a library of its own."""
    media.write_video(tmp_path / "clip.mp4", textured(2, 128, 152, 3), 8)
    verdict, own = oracle.infer(str(tmp_path / "clip.mp4")), ours(raft, tmp_path / "clip.mp4")
    np.testing.assert_allclose(own.scores, oracle.scores, rtol=0, atol=1e-5)
    assert own.dynamic is verdict
    (tmp_path / "frames").mkdir()
    for i, frame in enumerate(media.read_video(tmp_path / "clip.mp4").frames):
        media.write_png(tmp_path / "frames" / f"{i:04}.png", frame)
    scores = oracle.scores
    oracle.infer(str(tmp_path / "frames"))
    assert oracle.scores == scores


def test_the_second_implementation_is_the_class_itself(checkpoint, oracle, raft, tmp_path) -> None:
    torch.save(raft.net.state_dict(), tmp_path / "torchvision.pth")
    state = torch.random.get_rng_state()
    second = VBench(tmp_path / "torchvision.pth")
    assert torch.equal(torch.random.get_rng_state(), state)
    path = write_exact(tmp_path / "clip.mp4", textured(2, 128, 128, 2), 8)
    verdict = oracle.infer(str(path))
    assert second.dynamic(path) == metrics.Dynamic(verdict, tuple(oracle.scores), 3.0, 2, 0)
    assert second.dynamic(path.rename(tmp_path / "clip.mkv")).scores == tuple(oracle.scores)
    assert "VBench 0." in second.label()
    assert "C_T_V1" not in second.label()
    with pytest.raises(ValueError, match="reads no frame"):
        second.dynamic(tmp_path / "torchvision.pth")
    assert second.dynamic(write_exact(tmp_path / "one.mp4", textured(1, 128, 128, 2), 8)).dynamic is False


def test_the_suite_takes_vbenchs_verdict_beside_its_own_flow(checkpoint, raft, tmp_path) -> None:
    media.write_video(tmp_path / "clip.mp4", textured(3, 128, 128, 2), 8)
    sample = Sample("a", "", 0, "clip.mp4")
    second, quick = VBench(checkpoint), Raft(checkpoint, iterations=1)
    given = Media(tmp_path, tmp_path, "motion", "m", "open", ())
    clip = motion.score_clip(given, sample, quick, second)
    flow_alone = motion.score_clip(given, sample, quick)
    assert clip.values == {"optical_flow": flow_alone.values["optical_flow"], "dynamic_degree": 1.0}
    assert clip.scores == second.dynamic(tmp_path / "clip.mp4").scores != flow_alone.scores
    media.write_video(tmp_path / "small.mp4", textured(3, 64, 64, 2), 8)
    clip = motion.score_clip(given, Sample("b", "", 0, "small.mp4"), quick, second)
    assert set(clip.values) == {"optical_flow"}
    assert "120 pixels" in clip.problems["dynamic_degree"]


def test_the_command_line_takes_vbenchs_verdict_and_the_result_names_it(checkpoint, tmp_path) -> None:
    media.write_video(tmp_path / "clips" / "a.mp4", textured(3, 128, 128, 2), 8)
    what = ["bench", "--suite", "motion", "--media", str(tmp_path / "clips"), "--out", str(tmp_path / "out"), "--quiet"]
    ran = CliRunner().invoke(app, [*what, "--dynamic-degree", "vbench", "--weights", f"raft={checkpoint}"])
    assert ran.exit_code == 0, ran.output
    made = result.load(tmp_path / "out" / "clips" / "result.json")
    assert made.metric("dynamic_degree").estimator == VBench(checkpoint).label()
    assert made.metric("optical_flow").estimator != made.metric("dynamic_degree").estimator
    assert made.provenance["dynamic_degree"]["name"] == "vbench.dynamic_degree.DynamicDegree"
    kept = pd.read_csv(tmp_path / "out" / "clips" / "items.csv")["pair_scores"][0].split()
    assert [float(score) for score in kept] == pytest.approx(
        VBench(checkpoint).dynamic(tmp_path / "clips" / "a.mp4").scores, rel=1e-5
    )


def test_a_bad_implementation_or_missing_weights_are_one_line() -> None:
    with pytest.raises(UserError, match="did you mean 'vbench'"):
        motion.make({}, dynamic_degree="vbenc")
    with pytest.raises(UserError, match="no RAFT-large weights"):
        motion.make({}, dynamic_degree="vbench")


def test_small_sides(checkpoint, oracle, raft, tmp_path) -> None:
    """At 120 pixels VBench's scores are NaN, which it reads as static, or as dynamic with two frames; for us it
    is an error, and our own estimator upscales the frames instead. At 121 VBench scores, but without upscaling."""
    second = VBench(checkpoint)
    path = write_exact(tmp_path / "120.mp4", textured(3, 120, 128, 2), 8)
    assert not oracle.infer(str(path))
    assert np.isnan(oracle.scores).all()
    path = write_exact(tmp_path / "two.mp4", textured(2, 120, 128, 2), 8)
    with pytest.raises(ValueError, match="120 pixels"):
        second.dynamic(path)
    assert second.reference.check_move(second.reference.scores)
    path = write_exact(tmp_path / "121.mp4", textured(2, 121, 121, 2), 8)
    assert np.isfinite(second.dynamic(path).scores).all()
    assert flow.upscale_factor(121, 121) == 2


def test_the_command_installs_the_tested_versions() -> None:
    tested = (Path(__file__).parents[2] / "constraints.txt").read_text().split()
    pins = [word for word in INSTALL.split() if "==" in word]
    assert len(pins) == 3
    assert set(pins) <= set(tested)


def test_without_vbench_the_error_is_one_line_with_the_command(tmp_path, monkeypatch) -> None:
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.startswith("vbench"):
            raise ImportError("No module named 'vbench'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    monkeypatch.delitem(sys.modules, "vbench", raising=False)
    with pytest.raises(UserError) as caught:
        VBench(tmp_path / "absent.pth")
    assert INSTALL in str(caught.value)
    assert "\n" not in str(caught.value)
