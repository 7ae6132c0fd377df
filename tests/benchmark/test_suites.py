"""Suites and prompt files: strict reading, and the shipped file is what its function makes."""

from __future__ import annotations

import json
from collections import Counter
from importlib.resources import files

import pytest
from typer.testing import CliRunner

from pdmd.benchmark.result import KINDS
from pdmd.benchmark.run import SCORERS
from pdmd.benchmark.suites import SUITES, get_suite, load_prompts, parse_prompts
from pdmd.cli import app
from pdmd.errors import UserError
from pdmd.sprites import grammar, prompts
from pdmd.sprites.world import FACTORS, IMAGE_FACTORS

GOOD = '{"id": "a", "text": "a red circle"}\n'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\n  \n", "empty"),
        (b"a red circle\n", "line 1: not JSON"),
        (GOOD.encode() + b'{"id": "b", "te', "line 2: not JSON"),
        (GOOD.encode() + b'["b", "text"]', "line 2: expected an object"),
        (b'{"id": "a"}', "line 1: 'text' is missing"),
        (b'{"id": "a", "text": " "}', "line 1: 'text' is missing"),
        (b'{"id": 3, "text": "a"}', "line 1: 'id' is missing or not"),
        ((GOOD * 2).encode(), "line 2: id 'a' is already on line 1"),
        (b'{"id": "../a", "text": "a"}', "names a file"),
        (b'{"id": "a", "text": "a", "tgas": []}', "unknown key 'tgas'"),
        (b'{"id": "a", "text": "a", "tags": "x"}', "list of strings"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_bad_prompt_file_is_one_clear_line(content: bytes, says: str) -> None:
    with pytest.raises(UserError, match=r"p\.jsonl") as caught:
        parse_prompts(content, "p.jsonl", "sprites", 1)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_good_file_is_read_in_order_with_its_hash() -> None:
    read = parse_prompts((GOOD + '\n{"id": "b", "text": "two", "tags": ["t"]}').encode(), "p", "sprites", 1)
    assert [(p.id, p.text, p.tags, p.number) for p in read.prompts] == [
        ("a", "a red circle", (), 0),
        ("b", "two", ("t",), 1),
    ]
    assert len(read.sha256) == 64


def test_unknown_suite_domain_and_file(tmp_path) -> None:
    with pytest.raises(UserError, match="did you mean 'motion'"):
        get_suite("motoin")
    with pytest.raises(UserError, match="no prompts for 'mixture'"):
        load_prompts(get_suite("motion"), "mixture")
    with pytest.raises(UserError, match="nowhere"):
        load_prompts(get_suite("motion"), "sprites", tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize(("name", "count"), [("diversity", 21), ("motion", 220), ("motion-i2v", 220)])
def test_every_suite_has_its_prompts_in_every_domain(name: str, count: int) -> None:
    suite = get_suite(name)
    assert set(suite.prompt_files) == {"sprites", "open"}
    for domain, file in suite.prompt_files.items():
        read = load_prompts(suite, domain)
        assert (read.file, read.domain, len(read.prompts)) == (file, domain, count)


def test_every_suite_has_a_scorer_and_known_metrics() -> None:
    assert set(SUITES) == set(SCORERS)
    assert all(set(suite.metrics) <= set(KINDS) for suite in SUITES.values())


@pytest.mark.parametrize(("name", "count"), [("diversity", 168), ("motion", 220)])
def test_seeds_of_different_prompts_never_meet(name: str, count: int) -> None:
    suite = get_suite(name)
    read = load_prompts(suite, "sprites")
    seeds = [seed for p in read.prompts for seed in suite.seeds_of(p)]
    assert len(seeds) == len(set(seeds)) == count


def test_all_is_every_suite_that_the_models_can_do(make_renderer, tmp_path, monkeypatch) -> None:
    renderer = make_renderer()
    monkeypatch.setattr("pdmd.sample.load_model", lambda name, **_: renderer)
    arguments = ["bench", "--suite", "all", "--model", "x", "--out", str(tmp_path), "--limit", "1", "--quiet"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    for name, suite in SUITES.items():
        assert (tmp_path / name / "renderer" / "result.json").is_file() == (not suite.first_frames)
        assert (str(tmp_path / name / "renderer" / "report.md") in done.output) == (not suite.first_frames)
    renderer.domain = "mixture"
    assert "no suite has prompts for 'mixture' models" in str(CliRunner().invoke(app, arguments).exception)
    arguments += ["--prompts", "mine.jsonl"]
    assert "a file for one suite" in str(CliRunner().invoke(app, arguments).exception)


def test_the_shipped_file_is_what_the_function_makes() -> None:
    for name, write in prompts.SUITES.items():
        shipped = files("pdmd.prompts").joinpath("sprites", name).read_text(encoding="utf-8")
        assert shipped == prompts.as_text(write()), "run python -m pdmd.sprites.prompts and raise PROMPT_VERSION"


def test_diversity_prompts_are_distinct_held_out_and_leave_much_open() -> None:
    rows = [json.loads(line) for line in prompts.as_text(prompts.diversity_prompts()).splitlines()]
    texts = [row["text"] for row in rows]
    stated = [grammar.parse(text) for text in texts]
    assert len(set(texts)) == 21
    assert all(grammar.held_out(text) for text in texts)
    assert set(texts) <= prompts.held_out()
    assert all(1 <= len(s) <= len(IMAGE_FACTORS) - 2 for s in stated)
    assert all(set(s) <= set(IMAGE_FACTORS) for s in stated)
    assert all(set(row["tags"]) == set(IMAGE_FACTORS) - set(s) for row, s in zip(rows, stated, strict=True))
    for name in IMAGE_FACTORS:
        counts = Counter(s[name] for s in stated if name in s)
        assert sum(counts.values()) == 9  # so open in 12 of 21
        assert set(counts) == set(FACTORS[name])
        assert max(counts.values()) - min(counts.values()) <= 1
    assert len({len(s) for s in stated[:3]}) > 1  # a first part is mixed


def test_motion_prompts_are_distinct_held_out_open_and_spread() -> None:
    rows = [json.loads(line) for line in prompts.as_text(prompts.motion_prompts()).splitlines()]
    texts = [row["text"] for row in rows]
    stated = [grammar.parse(text) for text in texts]
    assert len(set(texts)) == 220
    assert all(grammar.held_out(text) for text in texts)
    assert set(texts) <= prompts.held_out()
    possible = [len(FACTORS) - (s.get("motion") == "still") for s in stated]
    assert all(len(s) < n for s, n in zip(stated, possible, strict=True))
    motions = Counter(s.get("motion") for s in stated)
    assert motions["still"] == 20
    assert motions[None] == 60
    assert {motions[m] for m in FACTORS["motion"] if m != "still"} == {28}
    for name in ("count", "size", "colour", "shape", "ground"):
        counts = Counter(s.get(name) for s in stated)
        assert set(counts) == {None, *FACTORS[name]}
        assert max(counts.values()) - min(counts.values()) <= 1


def test_image_to_video_pairs_state_the_whole_first_frame_and_share_no_text_with_the_motion_suite() -> None:
    pairs = prompts.motion_i2v_prompts()
    texts = [str(row["text"]) for row in pairs]
    assert len(set(texts)) == 220
    assert all(grammar.held_out(text) for text in texts)
    assert not set(texts) & {str(row["text"]) for row in prompts.motion_prompts()}
    stated, shown = ([grammar.parse(str(row[key])) for row in pairs] for key in ("text", "image"))
    assert all(set(image) == set(IMAGE_FACTORS) for image in shown)
    for text, image in zip(stated, shown, strict=True):
        assert all(image[name] == value for name, value in text.items() if name in IMAGE_FACTORS)
    for name in IMAGE_FACTORS:
        counts = Counter(image[name] for image in shown)
        assert set(counts) == set(FACTORS[name])
        assert max(counts.values()) <= 1.1 * min(counts.values())
    assert Counter(s.get("motion") for s in stated) == Counter(
        grammar.parse(str(row["text"])).get("motion") for row in prompts.motion_prompts()
    )
