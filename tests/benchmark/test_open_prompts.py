"""The open-domain prompts: spread as prompts/README.md states, no two alike, README's tables and hashes true, those of
the embedded world's files too.

    python tests/benchmark/test_open_prompts.py

rewrites README's blocks of tables and hashes after a change to the files (raise PROMPT_VERSION first).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from scipy.sparse import csr_array

from pdmd.benchmark.suites import PROMPT_VERSION, Prompt, PromptSet, parse_prompts
from pdmd.errors import UserError

FILES = ("diversity.jsonl", "motion.jsonl", "motion_i2v.jsonl")
MOTION_FILES = FILES[1:]
SPRITES_FILES = {
    "sprites/diversity.jsonl": "single images, 8 seeds a prompt",
    "sprites/motion.jsonl": "text-to-video, one seed a prompt",
    "sprites/motion_i2v.jsonl": "image-to-video, one seed a pair",
}
SUBJECTS_OF_SCENES = {
    "people": 3, "animals": 3, "places": 3, "nature": 3, "objects": 3, "food": 2, "vehicles": 2, "interiors": 2,
}  # fmt: skip
SPEEDS = ("slow", "medium", "fast")
SUBJECTS = ("one", "few", "many")
#: Category -> how many prompts of each speed, of each number of subjects; the same in both motion files.
TAXONOMY = {
    "people": ((9, 10, 9), (10, 9, 9)),
    "animals": ((10, 9, 9), (9, 10, 9)),
    "vehicles": ((9, 9, 9), (9, 9, 9)),
    "nature": ((9, 9, 9), (9, 9, 9)),
    "machines": ((9, 9, 9), (9, 9, 9)),
    "sport": ((9, 9, 10), (10, 9, 9)),
    "crowds": ((9, 9, 9), (6, 6, 15)),
    "camera": ((9, 10, 9), (9, 10, 9)),
}
#: Two texts are alike when either share of what they have in common reaches its bound.
WORD_BOUND = 0.30
GRAM_BOUND = 0.25
STOP_WORDS = frozenset(
    "a about above across after ahead all along among an and another any are around as at away back be before behind "
    "below beneath beside between both but by down each every for from front has have he her his in inside into is it "
    "its no of off on one onto or other out over past she so some than that the their them then there they this "
    "through to together toward under until up upon was were where which while who whose with without "
    "two three four five".split()
)
#: A diversity prompt leaves to the seed how the scene is seen, lit, laid out and drawn.
LEFT_OPEN = frozenset(
    "aerial backlit background backdrop bright camera candlelit center centre centred cinematic close closeup dark "
    "dawn daylight dim drawing dusk evening film focus foggy foreground golden illustration image lamplight lantern "
    "left lens light lighting lit midday midnight misty moonlight moonlit morning neon night noon overcast overhead "
    "painting panorama photo photograph picture portrait right scene shadow shadows shot silhouette sketch sunlight "
    "sunlit sunny sunrise sunset symmetrical twilight view viewed wide zoom".split()
)
#: A first frame is still: no verb of motion that is under way.
UNDER_WAY = re.compile(
    r"\b(mov|runn|fly|fall|jump|leap|rush|drift|swimm|walk|sway|spinn|turn|roll|slid|rac|danc|pour|splash|bounc|"
    r"gallop|gliding|glid|flow|hover|flutter|swing|div|chas|driv|sail|wav|shak|whirl|climb(?!ing rose))ing\b"
)


def rows(name: str) -> PromptSet:
    return parse_prompts(files("pdmd.prompts").joinpath(name).read_bytes(), name, "open", PROMPT_VERSION)


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text.lower())


def word_set(text: str) -> frozenset[str]:
    """The words that carry meaning."""
    return frozenset(words(text)) - STOP_WORDS


def gram_set(text: str) -> frozenset[str]:
    """Every run of 4 characters of the lower-case text without punctuation: catches changed word endings."""
    plain = " ".join(words(text))
    return frozenset(plain[i : i + 4] for i in range(len(plain) - 3))


def jaccard(sets: list[frozenset[str]]) -> np.ndarray:
    """Shared over all members, for every two of the sets: (n, n)."""
    column = {member: i for i, member in enumerate(sorted(frozenset().union(*sets)))}
    columns = [column[member] for members in sets for member in members]
    starts = np.cumsum([0, *map(len, sets)])
    has = csr_array((np.ones(len(columns)), columns, starts), shape=(len(sets), len(column)))
    shared = (has @ has.T).toarray()
    size = shared.diagonal()
    return shared / np.maximum(size[:, None] + size[None, :] - shared, 1)


class Document(NamedTuple):
    """A text to compare, and the prompt it is part of."""

    id: str
    text: str


def documents() -> list[Document]:
    """Each prompt's text; of a pair also the first frame's text, and both read as one scene."""
    found = []
    for name in FILES:
        for p in rows(name).prompts:
            found.append(Document(p.id, p.text))
            if p.image is not None:
                found += [Document(p.id, p.image), Document(p.id, f"{p.image} {p.text}")]
    return found


def alike(docs: list[Document]) -> list[tuple[float, float, str, str]]:
    """(word score, 4-gram score, text, text) of every two texts of different prompts that are near-duplicates."""
    by_word, by_gram = (jaccard([split(d.text) for d in docs]) for split in (word_set, gram_set))
    close = np.triu((by_word >= WORD_BOUND) | (by_gram >= GRAM_BOUND), k=1)
    return [
        (float(by_word[i, j]), float(by_gram[i, j]), docs[i].text, docs[j].text)
        for i, j in np.argwhere(close)
        if docs[i].id != docs[j].id
    ]


def table(prompts: tuple[Prompt, ...], at: int, values: tuple[str, ...]) -> list[str]:
    """README's table of category by the tag at a place."""
    counts = Counter((p.tags[0], p.tags[at]) for p in prompts)
    lines = [f"| category | {' | '.join(values)} | all |", f"| --- |{' --- |' * (len(values) + 1)}"]
    for category in TAXONOMY:
        row = [counts[category, value] for value in values]
        lines.append(f"| {category} | {' | '.join(map(str, row))} | {sum(row)} |")
    sums = [sum(counts[category, value] for category in TAXONOMY) for value in values]
    return [*lines, f"| all | {' | '.join(map(str, sums))} | {sum(sums)} |"]


def marked(name: str) -> re.Pattern[str]:
    """What stands in README between two marks."""
    return re.compile(rf"(?<=<!-- {name} -->\n).*(?=<!-- /{name} -->)", re.DOTALL)


def sprites_block() -> str:
    """What README says between its `sprites` marks."""
    lines = ["", "| file | prompts | for | version | sha256 |", "| --- | --- | --- | --- | --- |"]
    for name, use in SPRITES_FILES.items():
        read = rows(name)
        lines.append(f"| `{name}` | {len(read.prompts)} | {use} | {read.version} | `{read.sha256}` |")
    return "\n".join([*lines, ""]) + "\n"


def block() -> str:
    """What README says between its `counts` marks, from the files as they are."""
    diversity, motion, _ = (rows(name) for name in FILES)
    lines = ["", "| file | prompts | version | sha256 |", "| --- | --- | --- | --- |"]
    for name in FILES:
        read = rows(name)
        lines.append(f"| `{name}` | {len(read.prompts)} | {read.version} | `{read.sha256}` |")
    scenes = Counter(p.tags[0] for p in diversity.prompts)
    lines += ["", "Diversity, by what the scene is of:", ""]
    lines += [f"| {' | '.join(SUBJECTS_OF_SCENES)} | all |", f"|{' --- |' * (len(SUBJECTS_OF_SCENES) + 1)}"]
    lines += [f"| {' | '.join(str(scenes[s]) for s in SUBJECTS_OF_SCENES)} | {len(diversity.prompts)} |"]
    lines += ["", "Motion, category by speed, each of the two files:", "", *table(motion.prompts, 1, SPEEDS)]
    lines += ["", "Motion, category by subjects, each of the two files:", "", *table(motion.prompts, 2, SUBJECTS), ""]
    return "\n".join(lines) + "\n"


BLOCKS = {"counts": block, "sprites": sprites_block}


@pytest.mark.parametrize("name", BLOCKS)
def test_readme_is_true(name: str) -> None:
    found = marked(name).search(files("pdmd.prompts").joinpath("README.md").read_text(encoding="utf-8"))
    assert found is not None
    assert found.group() == BLOCKS[name](), "raise PROMPT_VERSION, then run python tests/benchmark/test_open_prompts.py"


@pytest.mark.parametrize(("name", "n", "shape", "shortest", "longest"), [
    ("diversity.jsonl", 21, "d{:02d}", 8, 20),
    ("motion.jsonl", 220, "m{:03d}", 12, 35),
    ("motion_i2v.jsonl", 220, "v{:03d}", 12, 35),
])  # fmt: skip
def test_counts_ids_and_lengths(name: str, n: int, shape: str, shortest: int, longest: int) -> None:
    prompts = rows(name).prompts
    assert [p.id for p in prompts] == [shape.format(i) for i in range(n)]
    assert [p.id for p in prompts if not shortest <= len(words(p.text)) <= longest] == []
    assert [p.id for p in prompts if p.text != " ".join(p.text.split())] == []


def test_keys_and_spelling_of_the_lines() -> None:
    for name in FILES:
        lines = files("pdmd.prompts").joinpath(name).read_text(encoding="utf-8").splitlines()
        keys = ["id", "text", "image", "tags"] if name == "motion_i2v.jsonl" else ["id", "text", "tags"]
        assert all(list(json.loads(line)) == keys for line in lines)
        assert [line for line in lines if line != json.dumps(json.loads(line), ensure_ascii=False)] == []


def test_diversity_prompts_leave_view_light_and_style_open() -> None:
    prompts = rows("diversity.jsonl").prompts
    assert Counter(p.tags for p in prompts) == {(s,): n for s, n in SUBJECTS_OF_SCENES.items()}
    assert [p.text for p in prompts if LEFT_OPEN & set(words(p.text))] == []


@pytest.mark.parametrize("name", MOTION_FILES)
def test_motion_prompts_are_spread_over_the_taxonomy(name: str) -> None:
    tags = [p.tags for p in rows(name).prompts]
    assert {len(t) for t in tags} == {3}
    by_speed, by_subjects, by_all = Counter((t[0], t[1]) for t in tags), Counter(t[::2] for t in tags), Counter(tags)
    assert by_speed == {(c, v): n for c, (ns, _) in TAXONOMY.items() for v, n in zip(SPEEDS, ns, strict=True)}
    assert by_subjects == {(c, v): n for c, (_, ns) in TAXONOMY.items() for v, n in zip(SUBJECTS, ns, strict=True)}
    assert len(by_all) == len(TAXONOMY) * len(SPEEDS) * len(SUBJECTS)
    assert {n for t, n in by_all.items() if t[0] != "crowds"} == {3, 4}
    assert {(t[2], n) for t, n in by_all.items() if t[0] == "crowds"} == {("one", 2), ("few", 2), ("many", 5)}


@pytest.mark.parametrize("name", MOTION_FILES)
def test_any_first_part_is_as_mixed_as_the_whole(name: str) -> None:
    tags = [p.tags for p in rows(name).prompts]
    whole = Counter(tag for t in tags for tag in t)
    seen: Counter[str] = Counter()
    for n, t in enumerate(tags, start=1):
        seen.update(t)
        assert max(abs(seen[tag] - n * count / len(tags)) for tag, count in whole.items()) < 1.5


def test_pairs_have_a_still_first_frame_and_the_others_none() -> None:
    pairs = rows("motion_i2v.jsonl").prompts
    assert all(p.image is not None and 8 <= len(words(p.image)) <= 35 for p in pairs)
    assert [p.image for p in pairs if UNDER_WAY.search(p.image or "")] == []
    assert UNDER_WAY.search("a dog running on a beach")
    assert all(p.image is None for name in FILES[:2] for p in rows(name).prompts)


@pytest.mark.parametrize("image", ["", "  ", 3, ["a dog"]])
def test_a_bad_image_text_is_one_clear_line(image: object) -> None:
    line = json.dumps({"id": "a", "text": "it runs", "image": image})
    with pytest.raises(UserError, match="line 1: 'image' must be a non-empty string"):
        parse_prompts(line.encode(), "p.jsonl", "open", 1)


def test_no_two_prompts_are_alike() -> None:
    assert alike(documents()) == []


@pytest.mark.parametrize("change", [
    lambda text: text.upper().replace(",", ";"),  # case and punctuation
    lambda text: " ".join(reversed(text.rstrip(".").split())),  # the same words in another order
    lambda text: text.replace("red kite", "large yellow balloon").replace("grey coats", "dark suits"),  # other details
    lambda text: re.sub(r"(\w{4,})\b", r"\1s", text),  # other word endings
    lambda text: "It is a rainy day. " + text + " A dog barks and a bell rings in the distance.",  # padded
])  # fmt: skip
def test_the_measure_catches_a_planted_near_duplicate(change) -> None:
    docs = [d for d in documents() if d.id.startswith("m")]
    original = next(d for d in docs if "red kite" in d.text)
    found = alike([*docs, Document("planted", change(original.text))])
    assert [pair[2] for pair in found] == [original.text]


def main() -> None:
    """Rewrite README's blocks; refuses where a listed file changed under the same version."""
    path = Path(str(files("pdmd.prompts").joinpath("README.md")))
    text = path.read_text(encoding="utf-8")
    for name in (*FILES, *SPRITES_FILES):
        read = rows(name)
        said = re.search(rf"\| `{re.escape(name)}` \|.* (\d+) \| `(\w+)` \|", text)
        if said and said[2] != read.sha256 and int(said[1]) == PROMPT_VERSION:
            raise SystemExit(f"{name} changed: raise PROMPT_VERSION in benchmark/suites.py first")
    for name, made in BLOCKS.items():
        text = marked(name).sub(lambda _, made=made: made(), text)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
