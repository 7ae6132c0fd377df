"""The embedded world's encoder and its three metrics: against plain formulas, on renders, in a run of two models."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import torch
from safetensors.torch import load_file

from pdmd.benchmark import frechet, provenance, renders, result
from pdmd.benchmark.compare import compare
from pdmd.benchmark.features.sprites import SEEN, SpritesEncoder
from pdmd.benchmark.run import run_suite
from pdmd.benchmark.suites import get_suite
from pdmd.errors import UserError
from pdmd.sprites import encoder as training
from pdmd.sprites import world

NAMES = "similarity", "distance", "differing"
REPORT = Path(__file__).parents[2] / "reports" / "sprites-encoder" / "README.md"


@pytest.fixture(scope="module")
def encoder() -> SpritesEncoder:
    return SpritesEncoder()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.concatenate([world.render(world.sample_scene(np.random.default_rng([7, i])), 1) for i in range(6)])


def test_the_shipped_encoder_is_of_this_world(encoder) -> None:
    x, values, _ = training.draw(np.random.default_rng(31), 64)
    assert training.accuracy(encoder.net, x, values) > 0.95
    assert float(encoder.net(x).var(0).sum()) == pytest.approx(1, abs=0.2)
    assert training.WEIGHTS.stat().st_size < 4e6
    assert {t.dtype for t in load_file(training.WEIGHTS).values()} == {torch.float16}


def test_embeddings_have_length_one_and_bad_images_are_refused(encoder, images) -> None:
    e = encoder.embed(images)
    assert e.shape == (6, training.EMBEDDING)
    assert np.linalg.norm(e, axis=1) == pytest.approx(np.ones(6), abs=1e-5)
    assert encoder.embed(images[2:3])[0] == pytest.approx(e[2], abs=1e-5)
    with pytest.raises(ValueError, match="takes 64x64 images, these are 32x64"):
        encoder.embed(images[:, :, :32])
    with pytest.raises(ValueError, match="expected uint8 images"):
        encoder.distances(images / 255)


def test_the_distance_is_the_weighted_difference_of_unit_features(encoder, images) -> None:
    found = encoder.distances(images)
    assert found == pytest.approx(found.T)
    assert not np.diag(found).any()
    x = torch.from_numpy(images[[0, 4]]).permute(0, 3, 1, 2).float() / 127.5 - 1
    maps = encoder.net.maps(x)
    start, plain = 0, 0.0
    for y in [*maps, encoder.net(x)[:, :, None, None]]:
        for h in range(y.shape[2]):
            for w in range(y.shape[3]):
                a, b = (v / v.norm() for v in y[:, :, h, w])
                weights = encoder.net.weights[start : start + y.shape[1]]
                plain += float((weights * (a - b) ** 2).sum()) / (y.shape[2] * y.shape[3])
        start += y.shape[1]
    assert start == len(encoder.net.weights)
    assert found[0, 4] == pytest.approx(plain, rel=1e-4)


def test_frechet_is_the_textbook_formula() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 6)) * np.arange(1, 7), rng.normal(size=(40, 6)) @ rng.normal(size=(6, 6)) + 1
    a, b = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(a @ b).real
    plain = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root)
    assert frechet.frechet(x, y) == pytest.approx(plain)
    assert frechet.frechet(x, x[::-1]) == pytest.approx(0, abs=1e-9)
    assert frechet.frechet(x, x + 2) == pytest.approx(4 * 6)
    few = rng.normal(size=(4, 6))  # fewer than dimensions: a singular covariance is no error
    assert frechet.frechet(few, few) == pytest.approx(0, abs=1e-9)


def test_the_jackknife_takes_off_the_bias_and_knows_the_spread() -> None:
    x = np.random.default_rng(1).normal(size=60)
    groups = [np.array([i]) for i in range(60)]
    variance, _ = frechet.jackknife(groups, lambda index: float(x[index].var()))
    assert variance == pytest.approx(x.var(ddof=1))  # Quenouille's own example
    mean, interval = frechet.jackknife(groups, lambda index: float(x[index].mean()))
    half = 2.000995 * x.std(ddof=1) / np.sqrt(60)  # Student's, 59 degrees of freedom
    assert mean == pytest.approx(x.mean())
    assert (interval.low, interval.high) == pytest.approx((mean - half, mean + half), rel=1e-5)
    corrected, plain = [], []
    for seed in range(20):  # two draws of one Gaussian: no distance
        a, b = np.random.default_rng([2, seed]).normal(size=(2, 100, 8))
        groups = [np.arange(k, 100, 20) for k in range(20)]
        corrected.append(frechet.jackknife(groups, lambda index, a=a, b=b: frechet.frechet(a[index], b[index]))[0])
        plain.append(frechet.frechet(a, b))
    assert np.mean(plain) > 0.4
    assert abs(np.mean(corrected)) < 0.06


def test_a_clip_says_where_it_goes_and_an_image_does_not(encoder, images) -> None:
    d, z = SEEN, training.EMBEDDING
    still = encoder.clip(images[:1])
    assert still.shape == (3 * d,)
    assert not still[d:].any()
    assert still[:z] / np.linalg.norm(still[:z]) == pytest.approx(encoder.embed(images[:1])[0], abs=1e-5)
    assert abs(still[z:d]).max() < 0.2  # a render is clean
    assert encoder.clip(renders.DAMAGES["noise, SD 24"](images[:1]))[z] == pytest.approx(24 / 51, abs=0.2)
    video = world.render(world.sample_scene(np.random.default_rng(3), {"motion": "left", "speed": "quickly"}))
    there, back = encoder.clip(video), encoder.clip(video[::-1])
    assert back[:d] == pytest.approx(there[:d], abs=1e-5)
    assert back[d : 2 * d] == pytest.approx(-there[d : 2 * d], abs=1e-5)
    assert back[2 * d :] == pytest.approx(there[2 * d :], abs=1e-5)
    assert np.linalg.norm(there[d : 2 * d]) > 0.1


def test_the_metrics_rank_models_as_the_truth_does(encoder) -> None:
    ranked = [renders.rank(encoder, dict.fromkeys(world.IMAGE_FACTORS, c), True, 5) for c in (0.0, 0.6, 0.9)]
    assert ranked[0].truth == pytest.approx(1)
    assert ranked[0].truth > ranked[1].truth > ranked[2].truth
    assert ranked[0].similarity < ranked[1].similarity < ranked[2].similarity
    assert ranked[0].distance > ranked[1].distance > ranked[2].distance


@pytest.mark.slow
def test_the_metrics_follow_the_truth_as_the_report_says(encoder) -> None:
    """reports/sprites-encoder, which is of the same draws: 0.95 where all factors collapse alike; where each collapses
    on its own, less, and no metric of pairs reaches 0.95 there."""
    ranked = renders.rank_all(encoder)
    found = {(alike, name): renders.spearman(ranked, alike, name) for alike in (True, False) for name in NAMES}
    assert min(found[True, name] for name in NAMES) >= 0.95
    assert all(0.85 <= found[False, name] < found[False, "differing"] < 0.95 for name in NAMES[:2])
    rows = re.findall(r"^\| (?:sprites_|share of)[^|]*\| ([\d.]+) \| ([\d.]+) \|$", REPORT.read_text(), re.MULTILINE)
    for name, row in zip(NAMES, rows, strict=True):
        assert [found[alike, name] for alike in (True, False)] == pytest.approx(list(map(float, row)), abs=0.002)


def test_damage_collapse_and_frozen_clips_are_seen_and_another_draw_is_not(encoder) -> None:
    def embedded(suite: str, seed: int, change=lambda v: v, one_seed: bool = False, n: int = 60) -> frechet.Embeddings:
        found: frechet.Embeddings = {}
        for (prompt, s, scene), _ in zip(renders.scenes(suite, seed, one_seed), range(n), strict=False):
            scene = replace(scene, track=scene.track[:: 2 if suite == "motion" else len(scene.track)])
            video = world.render(scene, len(scene.track))
            found.setdefault(prompt.id, {})[s] = encoder.clip(change(video))
        return found

    def distance(model: frechet.Embeddings, base: frechet.Embeddings) -> result.Metric:
        found = frechet.measure(model, base, len(base), "base", "")
        assert isinstance(found, result.Metric)
        return found

    base = embedded("diversity", 1, n=168)
    draw = distance(embedded("diversity", 2, n=168), base)
    assert draw.interval.low < 0 < draw.interval.high
    assert draw.details["with_its_bias"] > 0.02
    for bad in (
        embedded("diversity", 2, renders.DAMAGES["noise, SD 24"], n=168),
        embedded("diversity", 2, renders.DAMAGES["blur, SD 2 pixels"], n=168),
        embedded("diversity", 2, one_seed=True, n=168),
    ):
        assert distance(bad, base).interval.low > draw.value
    base = embedded("motion", 1)
    frozen = distance(embedded("motion", 2, lambda v: v[:1].repeat(5, 0)), base)
    assert frozen.interval.low > distance(embedded("motion", 2), base).value


def test_a_run_sets_the_others_against_the_first_teacher(make_renderer, tmp_path) -> None:
    class Late(make_renderer):
        """Other seeds than those asked for: another draw of the same model."""

        def generate(self, prompts: Sequence[str], seeds: Sequence[int], frames: int | None) -> np.ndarray:
            return super().generate(prompts, [s + 9 for s in seeds], frames)

    suite, base = get_suite("diversity"), make_renderer("base")
    base.identity = {"kind": "teacher"}
    paths = run_suite(suite, [Late("student"), base], tmp_path, limit=4, quiet=True)
    made = {path.parent.name: result.load(path) for path in paths}
    assert list(made) == ["student", "base"]
    metric = made["student"].metric("frechet_sprites")
    assert (metric.n, metric.missing, metric.details["base"], metric.details["samples"]) == (4, 0, "base", 32)
    assert metric.interval.low < metric.value < metric.interval.high
    assert made["base"].metric("frechet_sprites") is None
    assert "frechet_sprites" not in {m.metric for m in made["base"].missing}
    ours, theirs = (frechet.load(tmp_path / name) for name in ("student", "base"))
    assert frechet.measure(ours, theirs, 4, "base", metric.estimator) == metric  # the files have all it is made of
    assert "frechet_sprites" not in pd.read_csv(tmp_path / "student" / "prompts.csv").columns
    assert "frechet\\_sprites" in (tmp_path / "student" / "report.md").read_text()
    changes = [change.metric for change in compare(paths[0], paths[0]).changes]
    assert "sprites_distance" in changes
    assert "frechet_sprites" not in changes  # no mean over prompts
    gates = tmp_path / "gates.toml"
    gates.write_text("[gate.frechet_sprites]\nmargin = 0.1\n")
    with pytest.raises(UserError, match="no mean over prompts"):
        compare(paths[0], paths[0], gates)


def test_without_the_base_model_the_command_is_there(make_renderer, tmp_path) -> None:
    model = make_renderer("run")
    model.identity = {"kind": "student", "path": "runs/run/student"}
    (path,) = run_suite(get_suite("motion"), [model], tmp_path, limit=1, quiet=True)
    (missing,) = [m for m in result.load(path).missing if m.metric == "frechet_sprites"]
    assert missing.command == f"{provenance.command()} --model sprites"


def test_training_resumes_to_the_same_weights(tmp_path, monkeypatch) -> None:
    for name, value in (("STEPS", 2), ("POOL", 6), ("BATCH", 3), ("HELD_OUT", 2), ("CALIBRATION", 8)):
        assert hasattr(training, name)
        monkeypatch.setattr(training, name, value)

    def train(work: Path) -> dict[str, torch.Tensor]:
        monkeypatch.setattr("sys.argv", ["encoder", "--work", str(work)])
        training.main()
        return load_file(work / "encoder.safetensors")

    whole = train(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(training, "learning_rate", lambda step: 1 / 0 if step else training.WARM_UP**-1)
        patch.setattr(training, "SAVE_EVERY", 1)
        with pytest.raises(ZeroDivisionError):
            train(tmp_path / "killed")
    killed = train(tmp_path / "killed")
    rows = [json.loads(line) for line in (tmp_path / "killed" / "encoder.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert whole.keys() == killed.keys()
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert (whole["weights"] >= 0).all()
