"""The embedded world's prompts: stated factors <-> plain words, and the tokenizer's word list.

    {"count": "two", "size": "small", "colour": "red", "shape": "circle",
     "motion": "left", "speed": "quickly", "ground": "sand"}
    <->  "two small red circles moving left quickly on sand"

A factor that a prompt does not state is open: the world draws it at random.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

from pdmd.sprites.world import DIRECTIONS, FACTORS, GROUNDS, IMAGE_FACTORS, Scene, sample_scene

COUNTS = {"one": "a", "two": "two"}
MOTIONS = {"still": "standing still", **{d: f"moving {d}" for d in DIRECTIONS}, "bouncing": "bouncing"}
PLACES = {name: f"at {name}" if name == "night" else f"on {name}" for name in GROUNDS}

#: Probability that a training prompt states a factor.
STATED = 0.6
#: Probability that a training prompt is empty, for guidance.
EMPTY = 0.1


def prompt(stated: Mapping[str, str]) -> str:
    """The prompt that states these factors; the empty prompt where none is stated.

    Raises ValueError for what the grammar cannot say (an unknown factor or value, a speed of
    something that stands still).
    """
    for name, value in stated.items():
        if value not in FACTORS.get(name, ()):
            raise ValueError(f"the world has no {name} = {value!r}")
    if stated.get("motion") == "still" and "speed" in stated:
        raise ValueError("a scene that stands still has no speed")
    if not stated:
        return ""
    noun = stated.get("shape", "shape")
    if stated.get("count") == "two":
        noun = plural(noun)
    words = [COUNTS[stated["count"]] if "count" in stated else "any"]
    words += [stated[name] for name in ("size", "colour") if name in stated] + [noun]
    if "motion" in stated:
        words.append(MOTIONS[stated["motion"]])
    elif "speed" in stated:
        words.append("moving")
    if "speed" in stated:
        words.append(stated["speed"])
    if "ground" in stated:
        words.append(PLACES[stated["ground"]])
    return " ".join(words)


def parse(text: str) -> dict[str, str]:
    """The factors that a prompt states. Raises ValueError, naming the word, for any other text."""
    words = text.split()
    stated: dict[str, str] = {}
    singular = {plural(shape): shape for shape in FACTORS["shape"]}
    direct = {value: name for name in ("size", "colour", "speed", "shape") for value in FACTORS[name]}
    direct |= dict.fromkeys(singular, "shape")
    for i, word in enumerate(words):
        before = words[i - 1] if i else ""
        if word in COUNTS.values():
            stated["count"] = next(k for k, v in COUNTS.items() if v == word)
        elif word in direct:
            stated[direct[word]] = singular.get(word, word)
        elif word in GROUNDS:
            stated["ground"] = word
        elif phrase := {word, f"{before} {word}"} & set(MOTIONS.values()):
            stated["motion"] = next(k for k, v in MOTIONS.items() if v in phrase)
        elif word not in VOCABULARY:
            raise ValueError(f"the embedded world has no word {word!r} (in {text!r})")
    try:
        same = prompt(stated) == text
    except ValueError:
        same = False
    if not same:
        raise ValueError(f"not a prompt of the embedded world: {text!r}")
    return stated


def plural(shape: str) -> str:
    """The plural of a shape's name."""
    return shape + ("es" if shape == "cross" else "s")


def _vocabulary() -> tuple[str, ...]:
    words = {"any", "shape", "shapes", "moving"} | set(COUNTS.values())
    words |= {word for phrase in (*MOTIONS.values(), *PLACES.values()) for word in phrase.split()}
    for name in ("size", "colour", "shape", "speed"):
        words |= set(FACTORS[name])
    return tuple(sorted(words | {plural(shape) for shape in FACTORS["shape"]}))


VOCABULARY = _vocabulary()


def held_out(text: str) -> bool:
    """Whether a prompt belongs to the one in eight that no training, of teacher or student, may use.
    The benchmark's prompts are all of these; the empty prompt never is."""
    return text != "" and zlib.crc32(text.encode()) % 8 == 0


def training_prompt(
    rng: np.random.Generator, factors: Mapping[str, str | None], share: float = STATED, empty: float = EMPTY
) -> str:
    """A prompt that is true of a scene: it states a random selection of the factors that are not None."""
    if rng.random() < empty:
        return ""
    while True:
        text = prompt({name: value for name, value in factors.items() if value is not None and rng.random() < share})
        if not held_out(text):
            return text


def training_pairs(n: int, seed: int, image: bool) -> list[tuple[str, Scene]]:
    """n random scenes, each behind a prompt that is true of it, never a held-out one; for an image it states no
    motion."""
    names = IMAGE_FACTORS if image else tuple(FACTORS)
    made = []
    for i in range(n):
        rng = np.random.default_rng([seed, i])
        scene = sample_scene(rng)
        stated = {name: scene.factors[name] for name in names}
        made.append((training_prompt(rng, stated, empty=0.0), scene))
    return made


def training_prompts(n: int, seed: int, image: bool) -> list[str]:
    """The prompts of `training_pairs`."""
    return [text for text, _ in training_pairs(n, seed, image)]
