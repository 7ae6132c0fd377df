"""The diversity suite: a run from end to end, the prompt as unit, missing samples."""

from __future__ import annotations

import json
import shutil
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision

from pdmd import media
from pdmd.benchmark import diversity, metrics, report, result, score, stats
from pdmd.benchmark.diversity import Diversity
from pdmd.benchmark.generate import generate
from pdmd.benchmark.pairs import similarity
from pdmd.benchmark.run import run_suite, score_folder
from pdmd.benchmark.suites import get_suite, load_prompts
from pdmd.sprites import grammar
from pdmd.sprites.world import IMAGE_FACTORS

SUITE = get_suite("diversity")


class Pixels:
    """The simplest encoder: the pixels themselves, at length one. Notes how many images it was given."""

    def __init__(self) -> None:
        self.given: list[int] = []

    def label(self, height: int, width: int) -> str:
        return f"pixels {width}x{height}"

    def provenance(self) -> dict[str, str]:
        return {"name": "pixels"}

    def comparable(self) -> bool:
        return True

    def embed(self, images: np.ndarray) -> np.ndarray:
        self.given.append(len(images))
        flat = images.reshape(len(images), -1).astype(np.float32)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def trunk(tmp_path_factory) -> Path:
    """AlexNet's convolutions at random."""
    path = tmp_path_factory.mktemp("trunk") / "alex.pth"
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = torchvision.models.alexnet().features.state_dict()
    torch.save({f"features.{k}": 0.03 * torch.randn(t.shape, generator=generator) for k, t in shapes.items()}, path)
    return path


@pytest.fixture(scope="module")
def ran(tmp_path_factory, make_renderer, trunk) -> Path:
    out = tmp_path_factory.mktemp("bench")
    run_suite(SUITE, [make_renderer("one")], out, {"lpips_trunk": trunk}, limit=4, quiet=True)
    return out / "one"


@pytest.fixture
def copy(ran, tmp_path) -> Path:
    return Path(shutil.copytree(ran, tmp_path / "copy"))


def scored(folder: Path) -> result.Result:
    return score_folder("diversity", folder, Diversity([similarity("dinov3_similarity", Pixels())]))


def rewrite_manifest(folder: Path, change) -> None:
    path = folder / "manifest.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [
        {k: v for k, v in row.items() if k not in ("identity", "check", "sha256")} for row in rows
    ]  # as other tools write it
    path.write_text("".join(json.dumps(row) + "\n" for row in change(rows)))


def test_every_file_is_there_and_the_numbers_agree(ran) -> None:
    made = result.load(ran / "result.json")
    items, prompts = pd.read_csv(ran / "items.csv"), pd.read_csv(ran / "prompts.csv")
    own = ["sprites_similarity", "sprites_distance"]
    assert list(prompts.columns) == ["id", "fidelity", "lpips", *own, "factor_diversity"]
    assert len(items) == 32
    assert made.expected == len(prompts) == 4
    for metric in made.metrics:
        assert (metric.n, metric.missing) == (4, 0)
        assert metric.value == pytest.approx(prompts[metric.name].mean())
        if metric.name == "lpips":
            own = stats.hall_interval(prompts["lpips"])
            assert metric.interval.low == pytest.approx(max(0, own.low))
            assert metric.interval.high == pytest.approx(own.high)
    assert set(items["fidelity"]) == {1.0}
    first = items[items["id"] == "d00"]
    stated = grammar.parse(load_prompts(SUITE, "sprites").prompts[0].text)
    own = metrics.factor_entropies(
        first[list(IMAGE_FACTORS)].to_dict("records"), stated, diversity.VALUES
    )  # items.csv has all that the metric is made of
    assert prompts["factor_diversity"][0] == pytest.approx(np.mean(list(own.values())))
    assert made.generation["prompts"]["file"] == "sprites/diversity.jsonl"
    assert made.generation["prompts"]["domain"] == "sprites"
    assert made.metric("lpips").estimator.endswith("at 64x64")
    assert len(made.provenance["lpips"]["sha256"]) == 64
    assert sorted(p.name for p in (ran / "media").iterdir())[:2] == ["d00-0.png", "d00-1.png"]
    assert len({sample.name for sample in (ran / "media").iterdir()}) == 32


def test_clips_are_read_whole_and_compared_by_their_middle_frames(tmp_path, make_renderer) -> None:
    again = "pdmd bench --suite diversity --clips --limit 2"
    (path,) = run_suite(SUITE, [make_renderer("one")], tmp_path, clips=True, limit=2, quiet=True, command=again)
    made, items = result.load(path), pd.read_csv(path.with_name("items.csv"))
    assert made.generation["media"]["frames"] is None
    assert set(items["frames"]) == {5}
    assert set(made.metric("factor_diversity").details["by_factor"]) >= {"motion", "ground"}
    sample = score.Sample("d00", "two white shapes", 0, "media/d00-0.mp4")
    kind = score.Media(path.parent, path.parent, "diversity", "one", "sprites", [sample], clips=True)
    frames = media.read_video(path.parent / sample.file).frames
    assert np.array_equal(diversity.read_image(kind, sample)[1], frames[2])
    assert not np.array_equal(frames[0], frames[2])
    (missing,) = (m for m in made.missing if m.metric == "dinov3_similarity")
    assert missing.command.endswith(f" && {again}")


def test_without_weights_the_metric_is_missing_and_the_command_is_there(copy) -> None:
    made = score_folder("diversity", copy, diversity.make({}))
    assert [m.name for m in made.metrics] == ["fidelity", "sprites_similarity", "sprites_distance", "factor_diversity"]
    commands = {m.metric: m.command for m in made.missing}
    assert set(commands) == {"dinov3_similarity", "lpips", "frechet_sprites"}
    assert commands["dinov3_similarity"].startswith("hf download timm/vit_large_patch16_dinov3.lvd1689m ")
    text = (copy / "report.md").read_text()
    assert all(f"`{command}`" in text for command in commands.values())


def test_the_report_has_fidelity_first_and_the_seeds(ran) -> None:
    made, text = result.load(ran / "result.json"), (ran / "report.md").read_text()
    header = next(line for line in text.splitlines() if line.startswith("| model"))
    assert header.index("fidelity") < header.index("lpips") < header.index("diversity")
    assert all(report.number(metric) in text for metric in made.metrics)
    assert "](seeds.png)" in text
    assert "from least to most diverse by lpips" in text
    picture = media.read_video(ran / "seeds.png").frames[0]
    assert picture.shape[1] > 8 * 128
    assert picture.shape[0] > 4 * 128


@pytest.mark.parametrize(("by", "values"), [("lpips", [0.1, 0.2, 0.3]), ("dinov3_similarity", [0.9, 0.8, 0.7])])
def test_the_picture_runs_from_least_to_most_diverse(ran, tmp_path, monkeypatch, by: str, values: list[float]) -> None:
    from pdmd.benchmark import pictures
    from pdmd.benchmark.score import Item, PromptScore

    drawn: list[str] = []
    monkeypatch.setattr(pictures, "_wrapped", lambda text, width: drawn.append(text) or text)
    items = [Item("d00", 0, "", "media/d00-0.png", frames=1)]
    scores = [PromptScore(p, p, items, {by: v}) for p, v in zip("abc", values, strict=True)]
    pictures.draw_seeds(tmp_path / "s.png", ran, [scores[1], scores[2], scores[0]], by)
    assert drawn == ["a", "b", "c"]


def test_one_prompt_is_read_while_another_is_measured_and_no_more_are_held(copy, monkeypatch) -> None:
    plain, reads, third = score.read_video, [], threading.Event()

    def read_video(path: Path) -> media.Video:
        reads.append(threading.get_ident())
        if len(reads) > 16:
            third.set()
        return plain(path)

    class Waits(Pixels):
        def embed(self, images: np.ndarray) -> np.ndarray:
            if not self.given:  # of the first prompt
                deadline = time.monotonic() + 60
                while len(reads) < 16 and time.monotonic() < deadline:
                    time.sleep(0.01)
                assert len(reads) == 16  # the second one was read meanwhile
                assert not third.wait(0.2)  # and no third
            return super().embed(images)

    monkeypatch.setattr(score, "read_video", read_video)
    encoder = Waits()
    score_folder("diversity", copy, Diversity([similarity("dinov3_similarity", encoder)]))
    assert encoder.given == [8] * 4
    assert len(reads) == 32
    assert set(reads).isdisjoint({threading.get_ident()})


def test_reading_ahead_holds_two_and_keeps_order_and_errors() -> None:
    class Clip:
        def __init__(self, number: int) -> None:
            self.number = number

    held: weakref.WeakSet[Clip] = weakref.WeakSet()
    most, measured = [], []

    def read(number: int) -> Clip:
        if number == 4:
            raise ValueError("the fifth")
        held.add(made := Clip(number))
        most.append(len(held))
        return made

    def measure(clip: Clip) -> None:
        time.sleep(0.02)  # the next is read meanwhile
        measured.append(clip.number)

    with pytest.raises(ValueError, match="the fifth"):
        list(score.overlapped(range(9), read, measure))
    assert measured == [0, 1, 2, 3]
    assert max(most) == 2
    assert list(score.overlapped([], read, measure)) == []


def test_a_missing_sample_takes_its_prompt_and_no_other(copy) -> None:
    before = scored(copy)
    whole = pd.read_csv(copy / "prompts.csv").set_index("id")
    (copy / "media" / "d01-9.png").unlink()
    (copy / "media" / "d02-17.png").write_bytes(b"not an image")
    made = scored(copy)
    assert {m.name for m in made.metrics} == {m.name for m in before.metrics}
    assert all((m.n, m.missing) == (2, 2) for m in made.metrics)
    assert "d01-9.png is not there" in made.problems["d01"]["dinov3_similarity"]
    assert "sample d02-17: " in made.problems["d02"]["factor_diversity"]
    assert "is damaged" in made.problems["d02-17"]["image"]
    after = pd.read_csv(copy / "prompts.csv").set_index("id")
    assert after.loc[["d01", "d02"]].isna().all(axis=None)
    pd.testing.assert_frame_equal(after.loc[["d00", "d03"]], whole.loc[["d00", "d03"]])
    assert pd.read_csv(copy / "items.csv")["fidelity"].notna().sum() == 30
    assert "d01-9.png is not there" in (copy / "report.md").read_text()


def test_odd_samples_are_named(copy) -> None:
    def change(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
        rows = [row for row in rows if row["file"] != "media/d00-3.png"]
        next(row for row in rows if row["file"] == "media/d01-10.png")["seed"] = 8
        return rows

    rewrite_manifest(copy, change)
    media.write_png(copy / "media" / "d02-16.png", np.zeros((32, 64, 3), np.uint8))
    media.write_video(copy / "clip.mp4", np.zeros((3, 64, 64, 3), np.uint8), 8)
    rewrite_manifest(
        copy, lambda rows: [r | {"file": "clip.mp4"} if r["file"] == "media/d03-24.png" else r for r in rows]
    )
    made = scored(copy)
    assert not made.metrics
    reasons = {key: problems["dinov3_similarity"] for key, problems in made.problems.items() if len(key) == 3}
    assert "1 of 8 samples are missing" in reasons["d00"]
    assert "seed 8 comes 2 times" in reasons["d01"]
    assert "different sizes" in reasons["d02"]
    assert "has 3 frames" in reasons["d03"]
    assert {m.metric for m in made.missing} == {"fidelity", "dinov3_similarity", "lpips", "factor_diversity"}


def test_a_prompt_that_is_gone_is_counted(copy) -> None:
    rewrite_manifest(copy, lambda rows: [row for row in rows if row["id"] != "d00"])
    made = scored(copy)
    assert made.expected == 4
    assert all((m.n, m.missing) == (3, 1) for m in made.metrics)


def test_images_of_anything_else_are_scored_from_their_manifest(copy) -> None:
    (copy / "generation.json").unlink()
    rewrite_manifest(copy, lambda rows: [row | {"prompt": "a city at night"} for row in rows if row["seed"] % 8 < 3])
    made = scored(copy)
    assert [m.name for m in made.metrics] == ["dinov3_similarity"]
    assert made.metrics[0].comparable_with_paper  # open prompts, an encoder that says it is
    assert made.metrics[0].details["seeds_a_prompt"] == 3
    assert {m.metric for m in made.missing} == {"fidelity", "lpips"}


def test_collapse_shows(make_renderer, tmp_path) -> None:
    class Collapsed(make_renderer):
        def generate(self, prompts: Sequence[str], seeds: Sequence[int], frames: int | None) -> np.ndarray:
            return super().generate(prompts, [seed // 8 for seed in seeds], frames)

    read = load_prompts(SUITE, "sprites")
    values = {}
    for model in (make_renderer("even"), Collapsed("collapsed")):
        generate(SUITE, replace(read, prompts=read.prompts[:12]), model, tmp_path / model.name)
        values[model.name] = scored(tmp_path / model.name)
    assert values["collapsed"].metric("factor_diversity").value == 0
    assert values["collapsed"].metric("dinov3_similarity").value == pytest.approx(1)
    assert values["collapsed"].metric("fidelity").value == 1  # every image is right, and the same
    even = values["even"].metric("factor_diversity")
    assert even.value == pytest.approx(even.details["an_even_draw_scores"], abs=0.06)
    assert values["even"].metric("dinov3_similarity").value < 0.95


def test_killed_within_a_prompt_and_resumed_is_the_same_run(make_renderer, tmp_path) -> None:
    read = load_prompts(SUITE, "sprites")
    prompts = replace(read, prompts=read.prompts[:2])

    def contents(folder: Path) -> dict[str, bytes]:
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    generate(SUITE, prompts, make_renderer(), tmp_path / "whole", batch_size=3)
    model = make_renderer()
    model.fail_after = 9
    with pytest.raises(KeyboardInterrupt):
        generate(SUITE, prompts, model, tmp_path / "killed", batch_size=3)
    model.fail_after = None
    generate(SUITE, prompts, model, tmp_path / "killed", batch_size=3)
    made = [seed for _, seed in model.asked]
    assert made == [*range(16), 15, 15]  # each once, and each prompt its own; the last batch filled up
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert scored(tmp_path / "killed").metrics == scored(tmp_path / "whole").metrics
