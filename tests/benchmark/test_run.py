"""A run from end to end on a small suite; result.json there and back; the report."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torchvision.models.optical_flow import raft_large

from pdmd.benchmark import report, result
from pdmd.benchmark.features.dis import Dis
from pdmd.benchmark.motion import Motion
from pdmd.benchmark.run import run_suite, score_folder
from pdmd.benchmark.suites import get_suite
from pdmd.errors import UserError

SUITE = get_suite("motion")


@pytest.fixture(scope="module")
def ran(tmp_path_factory, make_renderer) -> Path:
    out = tmp_path_factory.mktemp("bench")
    run_suite(SUITE, [make_renderer("one"), make_renderer("two_*")], out, limit=10, quiet=True)
    return out


def test_every_file_is_there_and_the_numbers_agree(ran) -> None:
    made = result.load(ran / "one" / "result.json")
    items = pd.read_csv(ran / "one" / "items.csv")
    assert len(items) == made.expected == 10
    for name in ("fidelity", "optical_flow_dis", "dynamic_degree_dis"):
        metric = made.metric(name)
        assert metric is not None
        assert metric.n == 10
        assert metric.missing == 0
        assert metric.value == pytest.approx(items[name].mean())
        assert metric.interval is not None
        assert metric.interval.low <= metric.value <= metric.interval.high
        assert not metric.comparable_with_paper
    assert {m.metric for m in made.missing} == {"optical_flow", "dynamic_degree", "frechet_sprites"}
    flow = [m for m in made.missing if m.metric != "frechet_sprites"]
    assert all("raft_large_C_T_V1-22a6c225.pth" in m.command for m in flow)
    assert all(len(row.split()) == 4 for row in items["pair_scores"])  # 5 frames
    assert "upscaled x2" in made.metric("optical_flow_dis").estimator
    assert len(made.generation["prompts"]["sha256"]) == 64
    assert made.provenance["packages"]["torch"]


def test_the_report_carries_the_numbers_and_pictures(ran) -> None:
    made = result.load(ran / "one" / "result.json")
    text = (ran / "one" / "report.md").read_text()
    for metric in made.metrics:
        assert report.number(metric) in text
    header = next(line for line in text.splitlines() if line.startswith("| model"))
    assert header.index("fidelity") < header.index("optical")
    for name in ("clips.png", "flow.png"):
        assert f"]({name})" in text
        assert (ran / "one" / name).read_bytes().startswith(b"\x89PNG")
    joint = (ran / "report.md").read_text()
    assert joint.count(report.number(made.metric("fidelity"))) >= 2
    assert "two\\_\\*" in joint


def test_markup_in_names_is_inert() -> None:
    text = report.escape("a <script>|x|</script> [l](http://e.org) **b** `c` $d$\n# e\\")
    for mark in ("<script", "|x", "[l", "**", "`c", "$d", "://"):
        assert mark not in text.replace("\\" + mark[0], "")
    assert "\n" not in text
    assert report.escape("a red circle moving left, slowly (2)") == "a red circle moving left, slowly (2)"


def test_a_broken_sample_is_missing_and_the_run_goes_on(ran, tmp_path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(ran / "one", folder)
    (folder / "media" / "m003-3.mp4").write_bytes(b"not a video")
    made = score_folder("motion", folder, Motion(Dis()))
    assert all(m.n == 9 and m.missing == 1 for m in made.metrics)
    assert "m003-3.mp4 is damaged" in made.problems["m003-3"]["optical_flow_dis"]
    assert "m003-3" in (folder / "report.md").read_text()


def test_single_images_have_no_flow_and_are_never_dynamic(renderer, tmp_path) -> None:
    (path,) = run_suite(replace(SUITE, frames=1), [renderer], tmp_path, limit=3, quiet=True)
    made = result.load(path)
    assert made.metric("dynamic_degree_dis").value == 0
    assert "one frame: never dynamic (VBench's rule)" in (path.parent / "report.md").read_text()
    reasons = {m.metric: m.reason for m in made.missing}
    assert "one frame has no flow" in reasons["optical_flow_dis"]


def test_raft_takes_the_place_of_dis(renderer, tmp_path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(raft_large(weights=None).state_dict(), tmp_path / "raft.pth")
    out = tmp_path / "out"
    (path,) = run_suite(replace(SUITE, frames=2), [renderer], out, {"raft": tmp_path / "raft.pth"}, limit=1, quiet=True)
    made = result.load(path)
    assert {m.name for m in made.metrics} == {"fidelity", "optical_flow", "dynamic_degree"}
    assert [m.metric for m in made.missing] == ["frechet_sprites"]
    assert made.provenance["flow"]["training"] == "unrecognised"
    assert not made.metric("optical_flow").comparable_with_paper
    assert made.metric("dynamic_degree").details["quirks"] == ["two frames: always dynamic (VBench's rule)"]


def test_weights_that_are_nowhere_are_fetched_where_asked_for(renderer, tmp_path, monkeypatch) -> None:
    asked = []

    def fetch(name: str, given: dict[str, Path]) -> None:
        asked.append((name, dict(given)))
        raise UserError("no connection")

    monkeypatch.setattr("pdmd.benchmark.features.weights.fetch", fetch)
    for suite in (SUITE, get_suite("diversity")):
        with pytest.raises(UserError, match="no connection"):
            run_suite(suite, [renderer], tmp_path / "out", quiet=True, fetch=True)
    given = {"dinov3": Path("mine")}
    with pytest.raises(UserError, match="no connection"):
        run_suite(get_suite("diversity"), [renderer], tmp_path / "out", given, quiet=True, fetch=True)
    assert asked == [("raft", {}), ("dinov3", {}), ("dinov3", given)]
    assert not (tmp_path / "out").exists()


def test_media_of_anything_else_is_scored_from_its_manifest(ran, tmp_path) -> None:
    shutil.copytree(ran / "one" / "media", tmp_path / "theirs" / "media")
    rows = [{"id": "x", "seed": 7, "prompt": "a city at night", "file": "media/m000-0.mp4"}]
    (tmp_path / "theirs" / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = score_folder("motion", tmp_path / "theirs", Motion(Dis()))
    assert made.metric("optical_flow_dis").n == 1
    assert made.metric("fidelity") is None
    assert "fidelity" in {m.metric for m in made.missing}


def test_result_there_and_back(ran, tmp_path) -> None:
    made = result.load(ran / "one" / "result.json")
    result.save(made, tmp_path / "result.json")
    assert result.load(tmp_path / "result.json") == made
    assert (tmp_path / "result.json").read_bytes() == (ran / "one" / "result.json").read_bytes()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text[: len(text) // 2], "not whole JSON"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 2'), "upgrade pdmd"),
        (lambda text: text.replace('"schema_version": 1', '"version": 1'), "no schema_version"),
        (lambda text: text.replace('"estimator"', '"estimated"', 1), "not a whole result"),
        (lambda text: text.replace('"metrics"', '"metric"', 1), "not a whole result"),
        (lambda text: "[]", "no schema_version"),
    ],
)
def test_a_bad_result_is_one_clear_line(ran, tmp_path, change, says: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(change((ran / "one" / "result.json").read_text()))
    with pytest.raises(UserError, match=says) as caught:
        result.load(path)
    assert "\n" not in str(caught.value)


def test_a_result_of_another_suite_is_not_written_over(ran, make_renderer) -> None:
    before = (ran / "one" / "result.json").read_bytes()
    with pytest.raises(UserError, match="holds a result of the suite 'motion'; give another --out"):
        run_suite(get_suite("diversity"), [make_renderer("one")], ran, limit=1, quiet=True)
    assert (ran / "one" / "result.json").read_bytes() == before


def test_an_older_joint_report_does_not_stand_for_this_run_s(ran, tmp_path, capsys) -> None:
    one, two = (Path(shutil.copytree(ran / name, tmp_path / name)) for name in ("one", "two_*"))
    (two / "media" / "m000-0.mp4").unlink()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.md").write_text("an older run's")
    run_suite(SUITE, [], tmp_path / "out", media=[one, two], quiet=True)
    assert "two" in (tmp_path / "out" / "report.md").read_text()
    record = two / "generation.json"
    record.write_text(record.read_text().replace('"fps": "8"', '"fps": "9"'))
    run_suite(SUITE, [], tmp_path / "out", media=[one, two], quiet=True)
    assert "no joint report: not comparable: frames a second differs" in capsys.readouterr().err
    assert not (tmp_path / "out" / "report.md").exists()


def test_bad_input_stops_before_anything_is_made(make_renderer, tmp_path) -> None:
    def says(**options: object) -> str:
        models = options.pop("models", None) or [make_renderer()]
        with pytest.raises(UserError) as caught:
            run_suite(SUITE, models, tmp_path / "out", quiet=True, **options)
        return str(caught.value)

    assert "did you mean 'raft'" in says(weights={"raff": Path("x")})
    assert "no file" in says(weights={"raft": tmp_path / "none.pth"})
    assert "at least one prompt" in says(limit=0)
    assert "two models" in says(models=[make_renderer(), make_renderer()])
    assert "cannot name a folder" in says(models=[make_renderer("a/b")])
    assert not (tmp_path / "out").exists()


def test_a_teacher_is_sampled_with_the_steps_and_the_guidance_asked_for(tmp_path, cli, capsys) -> None:
    words = ("bench", "--suite", "motion", "--model", "sprites", "--limit", 1, "--quiet", "--out", tmp_path)
    assert cli(*words, "--steps", 2, "--guidance", 1.5) == 0
    made = result.load(tmp_path / "sprites" / "result.json").generation["model"]
    assert (made["steps"], made["guidance"]) == (2, 1.5)
    assert cli(*words, "--steps", 0) == 2
    assert "0 steps: sampling takes at least one" in capsys.readouterr().err
    for option in ("--steps", "--guidance", "--negative-prompt"):
        assert cli("bench", "--media", tmp_path / "sprites" / "media", option, 2) == 2
        assert "--steps, --guidance, --negative-prompt: a teacher samples by them" in capsys.readouterr().err
