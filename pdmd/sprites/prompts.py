"""The benchmark's prompts in the embedded world's words: a pure function writes each suite's file.

    python -m pdmd.sprites.prompts

rewrites the files under prompts/sprites/. Every text is one that no training may use
(`grammar.held_out`), and leaves at least one factor open: what it leaves open is what diversity means.
"""

from __future__ import annotations

import itertools
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

from pdmd.sprites import grammar
from pdmd.sprites.world import FACTORS, IMAGE_FACTORS

#: How many motion prompts state a motion and a speed; None leaves it open. 220 in all.
MOTION_COUNTS: dict[tuple[str | None, str | None], int] = {
    ("still", None): 20,
    **{
        (motion, speed): count
        for motion in FACTORS["motion"]
        if motion != "still"
        for speed, count in ((None, 10), ("slowly", 9), ("quickly", 9))
    },
    **{(None, speed): 20 for speed in (None, *FACTORS["speed"])},
}
#: The other factors: every value of each, and leaving it open, come up equally often.
_SPREAD = ("count", "size", "colour", "shape", "ground")


#: How many diversity prompts state one, two or three of an image's five factors: 21 in all, and each factor
#: stated by 9, open in 12.
STATED_COUNTS = {1: 3, 2: 12, 3: 6}


def diversity_prompts() -> list[dict[str, object]]:
    """The diversity suite's prompts, of single images: 21 rows {"id", "text", "tags"}, tagged with the factors
    that they leave open, ordered so that any first part is mixed.

    Greedy: each next prompt is the one whose factors, then values, then pairs of factors were stated least.
    """
    used: Counter[object] = Counter()
    rows = []
    every = itertools.product(*((None, *FACTORS[name]) for name in IMAGE_FACTORS))
    scenes = [{n: v for n, v in zip(IMAGE_FACTORS, values, strict=True) if v is not None} for values in every]
    for count, times in STATED_COUNTS.items():
        candidates = {grammar.prompt(s): s for s in scenes if len(s) == count}
        candidates = {text: s for text, s in candidates.items() if grammar.held_out(text)}

        def cost(text: str, candidates: dict[str, dict[str, str]] = candidates) -> tuple[int, int]:
            stated = candidates[text]
            values = sum(used[item] * len(FACTORS[item[0]]) for item in stated.items())
            pairs = sum(used[pair] for pair in itertools.combinations(stated, 2))
            return 100 * sum(used[name] for name in stated) + 10 * values + pairs, zlib.crc32(text.encode())

        for _ in range(times):
            text = min(candidates, key=cost)
            stated = candidates.pop(text)
            used.update([*stated, *stated.items(), *itertools.combinations(stated, 2)])
            rows.append((text, [name for name in IMAGE_FACTORS if name not in stated]))
    rows.sort(key=lambda row: zlib.crc32(row[0][::-1].encode()))
    return [{"id": f"d{i:02d}", "text": text, "tags": tags} for i, (text, tags) in enumerate(rows)]


def motion_prompts() -> list[dict[str, object]]:
    """The motion suite's prompts: 220 rows {"id", "text", "tags"}, ordered so that any first part is mixed."""
    return [{"id": f"m{i:03d}", "text": text, "tags": tags} for i, (text, tags) in enumerate(_motion_texts())]


def motion_i2v_prompts() -> list[dict[str, object]]:
    """The image-to-video suite's pairs: 220 rows {"id", "text", "image", "tags"}. The texts are spread as the
    motion suite's are, and none of them is one of those; `image` states all that a first frame shows.

    Greedy: what a text leaves open of the image takes the values, then the pairs of values, used least so far.
    """
    used: Counter[object] = Counter()
    rows: list[dict[str, object]] = []
    for i, (text, tags) in enumerate(_motion_texts(frozenset(text for text, _ in _motion_texts()))):
        stated = grammar.parse(text)
        choices = ([stated[n]] if n in stated else FACTORS[n] for n in IMAGE_FACTORS)
        scenes = [dict(zip(IMAGE_FACTORS, values, strict=True)) for values in itertools.product(*choices)]

        def cost(scene: dict[str, str], text: str = text) -> tuple[int, int, int]:
            pairs = sum(used[pair] for pair in itertools.combinations(scene.items(), 2))
            values = sum(used[item] * len(FACTORS[item[0]]) for item in scene.items())
            return values, pairs, zlib.crc32(f"{text} {grammar.prompt(scene)}".encode())

        scene = min(scenes, key=cost)
        used.update([*scene.items(), *itertools.combinations(scene.items(), 2)])
        rows.append({"id": f"v{i:03d}", "text": text, "image": grammar.prompt(scene), "tags": tags})
    return rows


@cache
def _motion_texts(taken: frozenset[str] = frozenset()) -> tuple[tuple[str, list[str]], ...]:
    """220 texts spread as MOTION_COUNTS says, none of them `taken`, and their tags.

    Greedy: each next prompt is the one whose values, and then pairs of values, were used least so far.
    """
    values: Counter[tuple[str, str | None]] = Counter()
    pairs: Counter[tuple[tuple[str, str | None], ...]] = Counter()
    rows = []
    for (motion, speed), count in MOTION_COUNTS.items():
        candidates = {text: stated for text, stated in _candidates(motion, speed) if text not in taken}
        for _ in range(count):

            def cost(text: str, candidates: dict[str, dict[str, str]] = candidates) -> tuple[float, int]:
                chosen = [(name, candidates[text].get(name)) for name in _SPREAD]
                share = sum(values[c] * (len(FACTORS[c[0]]) + 1) for c in chosen)
                return share + sum(pairs[p] for p in itertools.combinations(chosen, 2)), zlib.crc32(text.encode())

            text = min(candidates, key=cost)
            stated = candidates.pop(text)
            chosen = [(name, stated.get(name)) for name in _SPREAD]
            values.update(chosen)
            pairs.update(itertools.combinations(chosen, 2))
            rows.append((text, [motion or "any motion"] + ([] if motion == "still" else [speed or "any speed"])))
    return tuple(sorted(rows, key=lambda row: zlib.crc32(row[0][::-1].encode())))


def _candidates(motion: str | None, speed: str | None) -> Iterator[tuple[str, dict[str, str]]]:
    """Every held-out prompt with this motion and speed that leaves a factor open, and what it states."""
    for rest in itertools.product(*((None, *FACTORS[name]) for name in _SPREAD)):
        given = dict(zip(_SPREAD, rest, strict=True)) | {"motion": motion, "speed": speed}
        stated = {name: value for name, value in given.items() if value is not None}
        open_factors = len(FACTORS) - len(stated) - (motion == "still")  # what stands still has no speed to leave open
        text = grammar.prompt(stated)
        if open_factors > 0 and grammar.held_out(text):
            yield text, stated


#: File name -> what writes it.
SUITES = {
    "diversity.jsonl": diversity_prompts,
    "motion.jsonl": motion_prompts,
    "motion_i2v.jsonl": motion_i2v_prompts,
}


def as_text(rows: list[dict[str, object]]) -> str:
    """Prompt rows as JSON Lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def held_out() -> frozenset[str]:
    """Every text in any of the embedded world's suite files: no training may use one of these."""
    folder = files("pdmd.prompts").joinpath("sprites")
    texts = (folder.joinpath(name).read_text(encoding="utf-8") for name in SUITES)
    return frozenset(json.loads(line)["text"] for text in texts for line in text.splitlines())


def main() -> None:
    """Rewrite the prompt files of a checkout."""
    for name, write in SUITES.items():
        path = str(files("pdmd.prompts").joinpath("sprites", name))
        with open(path, "w", encoding="utf-8", newline="\n") as f:
            f.write(as_text(write()))
        print(path)


if __name__ == "__main__":
    main()
