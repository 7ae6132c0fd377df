"""Media made by anything else: matched to prompts, odd cases named, nothing in the folder touched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path, PurePosixPath

import av
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from pdmd import media
from pdmd.benchmark import provenance, result
from pdmd.benchmark.compare import compare
from pdmd.benchmark.features.dis import Dis
from pdmd.benchmark.given import match, named
from pdmd.benchmark.motion import Motion
from pdmd.benchmark.run import run_suite, score_given
from pdmd.benchmark.suites import Prompt, get_suite, load_prompts
from pdmd.cli import app
from pdmd.errors import UserError
from pdmd.sprites import grammar, world

MOTION, DIVERSITY = get_suite("motion"), get_suite("diversity")
PROMPTS = load_prompts(MOTION, "sprites").prompts


def clip(prompt: Prompt, frames: int = 3) -> np.ndarray:
    return world.render(world.sample_scene(np.random.default_rng(prompt.number), grammar.parse(prompt.text)), frames)


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def write_manifest(folder: Path, rows: Sequence[Mapping[str, object]]) -> None:
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("m003.mp4", ("m003", None)),
        ("m003_seed5.png", ("m003", 5)),
        ("m003-seed-5.png", ("m003", 5)),
        ("m003-5.webm", ("m003", 5)),
        ("clips/m003_5.mp4", ("m003", 5)),
        ("m003/5.png", ("m003", 5)),
        ("m003/seed_05.png", ("m003", 5)),
        ("a-1.mp4", ("a-1", None)),
        ("a-1-2.mp4", ("a-1", 2)),
        ("A cat runs.-0.mp4", ("m003", 0)),
        ("m0031.mp4", None),
        ("xm003.mp4", None),
        ("other/5.png", None),
    ],
)
def test_what_a_file_name_states(name: str, expected: tuple[str, int | None] | None) -> None:
    prompts = [Prompt("m003", "A cat runs.", (), 0), Prompt("a-1", "A dog.", (), 1)]
    found = named(PurePosixPath(name), {key: p for p in prompts for key in (p.id, p.text)})
    assert (found and (found[0].id, found[1])) == expected


@pytest.fixture
def odd(tmp_path) -> Path:
    """Ten prompts' folder: two sound clips, and one of each odd case."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    for number, name in ((0, "m000.mp4"), (1, "m001_seed1.mp4"), (7, "m007.mp4"), (8, "../outside.mp4")):
        media.write_video(folder / name, clip(PROMPTS[number]), 8)
    (folder / "m002.mp4").write_bytes((folder / "m000.mp4").read_bytes()[:900])
    media.write_video(folder / "m003.mp4", clip(PROMPTS[3]).repeat(2, axis=1), 8)
    media.write_video(folder / "m004.mp4", clip(PROMPTS[4]), 24)
    media.write_video(folder / "m005.mp4", clip(PROMPTS[5])[:1], 8)
    with av.open(str(folder / "m006.h264"), "w") as container:  # a bare stream, without times
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for frame in clip(PROMPTS[6]):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    media.write_video(folder / "m007_seed7.mkv", clip(PROMPTS[7]), 8, media.LOSSLESS)
    (folder / "m008.mp4").symlink_to(tmp_path / "outside.mp4")
    media.write_video(folder / "holiday.mp4", clip(PROMPTS[0]), 8)
    return folder


def test_odd_files_are_named_in_a_line_each_and_the_run_goes_on(odd, tmp_path) -> None:
    before = state(odd)
    options = ["--domain", "sprites", "--limit", "10", "--out", str(tmp_path / "out"), "--quiet"]
    ran = CliRunner().invoke(app, ["bench", "--suite", "motion", "--media", str(odd), *options])
    assert ran.exit_code == 0, ran.output
    assert state(odd) == before
    folder = tmp_path / "out" / "theirs"
    made = result.load(folder / "result.json")
    lines = {key: set(problems.values()) for key, problems in made.problems.items()}
    assert all(len(reasons) == 1 for reasons in lines.values())
    for key, says in {
        "m002-2": "not a readable video",
        "m003-3": "it is 64x128, most are 64x64",
        "m004-4": "it has 24 frames a second, most have 8",
        "m005-5": "a clip of one frame has no flow",
        "m006-6": "states no frames a second",
        "m007-7": "seed 7 comes 2 times (m007.mp4, m007_seed7.mkv)",
        "m008-8": "'m008.mp4' leads out of",
        "holiday.mp4": "not named after a prompt of sprites/motion.jsonl",
        "prompts": "1 of 10 have no sample: m009",
    }.items():
        assert says in min(lines.pop(key)), key
    assert not lines
    items = pd.read_csv(folder / "items.csv").set_index("id")
    flow, dynamic, fidelity = (made.metric(name) for name in ("optical_flow_dis", "dynamic_degree_dis", "fidelity"))
    assert list(items.index[items["optical_flow_dis"].notna()]) == ["m000", "m001", "m006"]
    assert (flow.n, flow.missing) == (3, 7)
    assert (dynamic.n, dynamic.missing) == (3, 7)  # VBench calls one frame never dynamic, and so do we
    assert (fidelity.n, fidelity.missing) == (4, 6)
    assert made.generation["prompts"]["file"] == "sprites/motion.jsonl"
    assert "holiday.mp4" in (folder / "report.md").read_text()


def test_a_manifest_says_which_file_is_which(odd, tmp_path) -> None:
    inside = {"file": "holiday.mp4", "seed": 0}
    rows = [
        inside | {"id": "m000", "prompt": PROMPTS[0].text},
        {"file": "m007.mp4", "seed": 3, "id": "m001"},
        inside | {"id": "m002", "prompt": "something else"},
        inside | {"id": "x"},
        inside | {"id": "m003", "file": "../outside.mp4"},
        inside | {"id": "m004", "file": str(tmp_path / "outside.mp4")},
        inside | {"id": "m005", "file": "none.mp4"},
    ]
    write_manifest(odd, rows)
    found = match(odd, MOTION, limit=10)
    assert [s.id for s in found.samples] == ["m000", "m001", "m003", "m004", "m005"]
    assert (found.domain, found.prompts, found.seeds) == ("sprites", 10, 1)  # by the text that it states
    assert found.samples[1].prompt == PROMPTS[1].text
    made = score_given("motion", odd, found, tmp_path / "out", Motion(Dis()))
    assert (made.metric("optical_flow_dis").n, made.expected) == (2, 10)
    for key in ("m003-0", "m004-0"):
        assert "leads out of" in made.problems[key]["optical_flow_dis"]
    assert "is not there" in made.problems["m005-0"]["optical_flow_dis"]
    assert made.problems["holiday.mp4"]["left out"] == "sprites/motion.jsonl has no prompt x"


def test_a_manifest_of_other_prompts_is_a_set_of_its_own(odd, tmp_path) -> None:
    write_manifest(odd, [{"id": "x", "seed": 7, "prompt": "a city at night", "file": "m000.mp4"}])
    made = score_given("motion", odd, match(odd, MOTION), tmp_path / "out", Motion(Dis()))
    assert (made.metric("optical_flow_dis").n, made.expected) == (1, 1)
    assert made.generation["prompts"] == {}
    assert "prompts of its own" in made.generation["model"]["matched"]


def test_without_prompts_each_file_is_an_item(odd, tmp_path) -> None:
    for name in ("m003.mp4", "m004.mp4", "m006.h264", "m007_seed7.mkv", "m008.mp4"):
        (odd / name).unlink()
    for i, path in enumerate(sorted(odd.iterdir())):
        path.rename(odd / f"clip {i}.mp4")
    found = match(odd, MOTION)
    made = score_given("motion", odd, found, tmp_path / "out", Motion(Dis()))
    assert (made.metric("optical_flow_dis").n, made.expected) == (4, 6)
    assert not made.metric("optical_flow_dis").comparable_with_paper
    assert "no prompts are known" in next(m.reason for m in made.missing if m.metric == "fidelity")
    assert all(m.command.endswith(provenance.command()) for m in made.missing if m.metric != "fidelity")
    assert "no prompts: each file is an item of its own" in (tmp_path / "out" / "report.md").read_text()


def test_images_of_several_seeds(tmp_path) -> None:
    prompts = load_prompts(DIVERSITY, "sprites").prompts[:2]
    folder = tmp_path / "images"
    for prompt in prompts:
        scene = grammar.parse(prompt.text)
        for seed in range(3):
            drawn = world.sample_scene(np.random.default_rng(seed), scene)
            media.write_png(folder / f"{prompt.id}_seed{seed}.png", world.render(drawn, 1)[0])
    (path,) = run_suite(
        DIVERSITY, [], tmp_path / "out", media=[folder], domain="sprites", limit=2, quiet=True
    )  # fmt: skip
    made = result.load(path)
    assert (made.metric("factor_diversity").n, made.metric("fidelity").value) == (2, 1)
    assert made.metric("factor_diversity").details["seeds_a_prompt"] == 3
    found = match(folder, DIVERSITY, domain="open")  # the ids of both worlds are the same
    assert (found.prompts, found.seeds, len(found.samples)) == (21, 3, 6)
    fewer = tmp_path / "fewer"
    shutil.copytree(folder, fewer, ignore=shutil.ignore_patterns("*seed2*"))
    (few,) = run_suite(DIVERSITY, [], tmp_path / "out", media=[fewer], domain="sprites", limit=2, quiet=True)
    with pytest.raises(UserError, match=r"number of seeds a prompt of fidelity differs, 3 in .*, 2 in"):
        compare(path, few, same_noise=False)
    for path in list(folder.iterdir()):
        path.rename(folder / path.name.replace("d", "cat ", 1))
    found = match(folder, replace(DIVERSITY, frames=None))  # --clips: of these, too, seeds belong together
    assert (found.prompts, found.seeds) == (2, 3)
    found = match(folder, DIVERSITY)
    assert {(s.id, s.seed) for s in found.samples} == {(f"cat 0{i}", seed) for i in (0, 1) for seed in range(3)}
    assert (found.domain, found.prompts, found.seeds) == ("none", 2, 3)


def test_a_folder_of_ours_scores_the_same_as_when_it_was_made(renderer, tmp_path) -> None:
    (path,) = run_suite(MOTION, [renderer], tmp_path / "bench", limit=4, quiet=True)
    copy = Path(shutil.copytree(path.parent, tmp_path / "copy"))
    (again,) = run_suite(MOTION, [], tmp_path / "again", media=[copy], quiet=True)
    ours, theirs = result.load(path), result.load(again)
    assert theirs.metrics == ours.metrics
    assert theirs.generation["prompts"] == ours.generation["prompts"]
    assert theirs.expected == ours.expected == 4
    (fewer,) = run_suite(MOTION, [], tmp_path / "fewer", media=[copy], limit=3, quiet=True)
    assert (result.load(fewer).expected, result.load(fewer).generation["prompts"]["n"]) == (3, 3)
    assert len(result.load(fewer).problems) == 0
    own = tmp_path / "own.jsonl"
    own.write_text('{"id": "m000", "text": "a red circle on sand"}\n')
    for suite, said, options in (
        (DIVERSITY, "of suite 'motion', not 'diversity'", {}),
        (MOTION, "the prompts of .* are 'sprites'", {"domain": "open"}),
        (MOTION, "are of other prompts", {"prompts": own}),
    ):
        with pytest.raises(UserError, match=said):
            run_suite(suite, [], tmp_path / "other", media=[copy], quiet=True, **options)


def test_bad_folders_end_in_one_line(odd, tmp_path) -> None:
    def says(folder: Path, out: Path = tmp_path / "out", **options: object) -> str:
        with pytest.raises(UserError) as caught:
            run_suite(MOTION, [], out, media=[folder], quiet=True, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    (tmp_path / "empty").mkdir()
    assert "no such folder" in says(tmp_path / "none")
    assert "no video in it" in says(tmp_path / "empty")
    assert "has no prompts for 'sprite' models" in says(odd, domain="sprite")
    assert "only read" in says(odd, odd)
    assert "only read" in says(odd, tmp_path)  # the result's folder would be the media's
    (odd / "manifest.jsonl").write_text('{"id": 3}\n')
    assert "line 1: not a manifest line" in says(odd)
    assert not (tmp_path / "out").exists()


def test_exact_rates_are_read_from_every_container(tmp_path) -> None:
    frames = clip(PROMPTS[0])
    for name, codec in (("a.mp4", media.CODEC), ("a.mkv", media.LOSSLESS)):
        media.write_video(tmp_path / name, frames, 23.976, codec)
        assert media.probe(tmp_path / name) == media.Facts(64, 64, Fraction(24000, 1001))
