"""Suites and prompt files: strict reading, and the shipped file is what its function makes."""

from __future__ import annotations

import json
from collections import Counter
from importlib.resources import files

import pytest

from pdmd.benchmark.suites import get_suite, load_prompts, parse_prompts
from pdmd.errors import UserError
from pdmd.sprites import grammar, prompts
from pdmd.sprites.world import FACTORS

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
    with pytest.raises(UserError, match="no prompts for 'open'"):
        load_prompts(get_suite("motion"), "open")
    with pytest.raises(UserError, match="nowhere"):
        load_prompts(get_suite("motion"), "sprites", tmp_path / "nowhere.jsonl")


def test_seeds_of_different_prompts_never_meet() -> None:
    suite = get_suite("motion")
    read = load_prompts(suite, "sprites")
    seeds = [seed for p in read.prompts for seed in suite.seeds_of(p)]
    assert len(seeds) == len(set(seeds)) == 220


def test_the_shipped_file_is_what_the_function_makes() -> None:
    for name, write in prompts.SUITES.items():
        shipped = files("pdmd.prompts").joinpath("sprites", name).read_text(encoding="utf-8")
        assert shipped == prompts.as_text(write()), "run python -m pdmd.sprites.prompts and raise PROMPT_VERSION"


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
