"""The suites as data: which prompts, which seeds, which metrics."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from pdmd.errors import UserError, first_line, suggest
from pdmd.files import parse_json


@dataclass(frozen=True)
class FirstFrame:
    """The image that a clip goes on from, and its file's sha256."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class Prompt:
    """One line of a prompt file. `number` is its place in the file, from 0: seeds follow it.

    `image` describes the first frame of an image-to-video pair: what is seen, not what moves; `first_frame` is it.
    """

    id: str
    text: str
    tags: tuple[str, ...]
    number: int
    image: str | None = None
    first_frame: FirstFrame | None = None


@dataclass(frozen=True)
class PromptSet:
    """A prompt file as read: its name, version, the sha256 of its bytes, and its prompts."""

    file: str
    domain: str
    version: int
    sha256: str
    prompts: tuple[Prompt, ...]


@dataclass(frozen=True)
class Suite:
    """A benchmark suite.

    `prompt_files` maps a model's domain to a file under prompts/. `seeds` are the seeds of each prompt;
    with `own_noise`, prompt number i uses `len(seeds) * i + seed` in place of `seed`, so that no two
    prompts share their noise and an interval over prompts covers the noise too. `frames` None leaves the
    clip's length to the model. With `first_frames` each clip goes on from an image that its prompt describes.
    """

    name: str
    version: int
    prompt_files: Mapping[str, str]
    seeds: tuple[int, ...]
    own_noise: bool
    frames: int | None
    metrics: tuple[str, ...]
    first_frames: bool = False

    def seeds_of(self, prompt: Prompt) -> tuple[int, ...]:
        """The seeds of one prompt's samples."""
        return tuple(len(self.seeds) * prompt.number * self.own_noise + seed for seed in self.seeds)


ALL = "all"  # in place of a suite's name
FIRST_FRAMES = "motion-i2v"  # the suite that `pdmd bench prepare-i2v` makes first frames for
PROMPT_VERSION = 2  # raise it with any change to a shipped prompt file

MOTION = Suite(
    name="motion",
    version=1,
    prompt_files={"sprites": "sprites/motion.jsonl", "open": "motion.jsonl"},
    seeds=(0,),
    own_noise=True,
    frames=None,
    metrics=("fidelity", "optical_flow", "dynamic_degree"),
)
SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            name="diversity",
            version=1,
            prompt_files={"sprites": "sprites/diversity.jsonl", "open": "diversity.jsonl"},
            seeds=tuple(range(8)),
            own_noise=True,
            frames=1,
            metrics=("fidelity", "dinov3_similarity", "lpips", "factor_diversity"),
        ),
        MOTION,
        replace(
            MOTION,
            name=FIRST_FRAMES,
            prompt_files={"sprites": "sprites/motion_i2v.jsonl", "open": "motion_i2v.jsonl"},
            first_frames=True,
        ),
    )
}


def get_suite(name: str) -> Suite:
    """A suite by name. Raises UserError for another name."""
    if name not in SUITES:
        raise UserError(f"no suite {name!r}: {suggest(name, [*SUITES, ALL])}")
    return SUITES[name]


def suites_for(domains: Iterable[str], first_frames: bool) -> list[Suite]:
    """The suites that have prompts for all of these domains and begin from first frames, or do not. Raises UserError
    where there is none."""
    wanted = set(domains)
    fits = [suite for suite in SUITES.values() if suite.first_frames == first_frames]
    if not (found := [suite for suite in fits if wanted <= set(suite.prompt_files)]):
        raise UserError(f"no suite has prompts for {' and '.join(map(repr, sorted(wanted)))} models")
    return found


def load_prompts(suite: Suite, domain: str, file: Path | None = None) -> PromptSet:
    """The suite's prompts for models of a domain, or those of the user's own `file`.

    Raises UserError where the suite has no prompts for the domain, or the file is not what it should be.
    """
    if file is not None:
        try:
            return parse_prompts(file.read_bytes(), str(file), domain, version=0)
        except OSError as error:
            raise UserError(f"cannot read the prompt file {file}: {error.strerror or error}") from None
    if domain not in suite.prompt_files:
        known = ", ".join(suite.prompt_files)
        raise UserError(
            f"suite {suite.name} has no prompts for {domain!r} models (it has: {known}); give a prompt file"
        )
    name = suite.prompt_files[domain]
    return parse_prompts(files("pdmd.prompts").joinpath(*name.split("/")).read_bytes(), name, domain, PROMPT_VERSION)


def prompts_record(prompts: PromptSet) -> dict[str, Any]:
    """What a result says of its prompts."""
    return {
        "file": prompts.file,
        "version": prompts.version,
        "sha256": prompts.sha256,
        "domain": prompts.domain,
        "n": len(prompts.prompts),
    }


def same_prompts(generation: Mapping[str, Any], prompts: PromptSet) -> bool:
    """Whether a result, by its record, is of these prompts, whatever their file is called."""
    made, wanted = generation.get("prompts", {}), prompts_record(prompts)
    return all(made.get(key) == wanted[key] for key in ("sha256", "domain", "n"))


def first_frames_record(prompts: PromptSet) -> dict[str, Any]:
    """What a result says of the first frames of image-to-video pairs, where its prompts are such: `of` each its
    description and its file's sha256, and one `sha256` over all of these, where the files are known."""
    pairs = [prompt for prompt in prompts.prompts if prompt.image is not None]
    if not pairs:
        return {}
    hashes = {p.id: p.first_frame.sha256 for p in pairs if p.first_frame}
    of = {p.id: {"image": p.image} | ({"sha256": hashes[p.id]} if p.id in hashes else {}) for p in pairs}
    one = {"sha256": hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()} if hashes else {}
    return {"first_frames": one | {"of": of}}


def parse_prompts(content: bytes, name: str, domain: str, version: int) -> PromptSet:
    """Read JSON Lines of {"id", "text", "tags", "image"}, the last two optional.

    Raises UserError naming file and line.
    """
    prompts: list[Prompt] = []
    lines_of: dict[str, int] = {}
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise UserError(f"{name} is not UTF-8 text; a prompt file is JSON Lines") from None
    for i, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{name}, line {i}"
        try:
            row = parse_json(line)
        except ValueError as error:
            raise UserError(
                f"{where}: not JSON ({first_line(error)}); a prompt file is JSON Lines, one object a line"
            ) from None
        if not isinstance(row, dict):
            raise UserError(f"{where}: expected an object with id and text, got {type(row).__name__}")
        for key in ("id", "text"):
            if not isinstance(row.get(key), str) or not row[key].strip():
                raise UserError(f"{where}: {key!r} is missing or not a non-empty string")
        tags = row.get("tags", [])
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            raise UserError(f"{where}: 'tags' must be a list of strings")
        image = row.get("image")
        if image is not None and (not isinstance(image, str) or not image.strip()):
            raise UserError(f"{where}: 'image' must be a non-empty string")
        if unknown := set(row) - {"id", "text", "tags", "image"}:
            raise UserError(f"{where}: unknown key {min(unknown)!r}; a prompt has id, text, tags and image")
        if not all(c.isalnum() or c in "-_" for c in row["id"]):
            raise UserError(f"{where}: id {row['id']!r} names a file; use letters, digits, - and _ only")
        if row["id"] in lines_of:
            raise UserError(f"{where}: id {row['id']!r} is already on line {lines_of[row['id']]}; ids must differ")
        lines_of[row["id"]] = i
        prompts.append(Prompt(row["id"], row["text"], tuple(tags), len(prompts), image))
    if not prompts:
        raise UserError(f"{name} is empty: it holds no prompt; write one JSON object with id and text a line")
    return PromptSet(name, domain, version, hashlib.sha256(content).hexdigest(), tuple(prompts))
