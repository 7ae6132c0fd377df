"""A folder of media made by anything else, matched to a suite's prompts. The folder is only read.

In this order, the first that fits:

1. generation.json beside a manifest.jsonl, as `generate` writes them: its own record says it all.
2. manifest.jsonl: id, prompt, seed and file of each sample, `prompt` optional. The suite's prompts where an id is one
   of them and its text, if stated, is the same; prompts of the manifest's own where none is.
3. File names: ID, ID_seedN, ID-seedN, ID_N, ID-N, or seedN and N in a folder called ID; the prompt's text may stand for
   its ID. Without a seed it is the suite's own.
4. No prompts: each file is an item of its own; for images, files that differ in their seed alone are one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from pdmd.errors import UserError

from .generate import Sample, read_manifest, read_record
from .media import IMAGES, VIDEOS, Facts, inside, probe
from .score import NO_PROMPTS
from .suites import Prompt, PromptSet, Suite, load_prompts, prompts_record

SEEDED = re.compile(r"(?P<id>.+?)[-_ ](?:seed[-_ ]?)?(?P<seed>\d+)")
SEED = re.compile(r"(?:seed[-_ ]?)?(?P<seed>\d+)")
SAME_RATE = 0.01  # relative: containers round
NAMED = 3  # of what is missing, by name

Key = tuple[str, int]


@dataclass(frozen=True)
class Given:
    """A folder as matched. `prompts` and `seeds` of each are what there should be; `refused` says by id and seed why a
    sample is counted as missing, `left_out` by name why a file or row is no sample; `record` is the result's
    `generation`."""

    samples: Sequence[Sample]
    refused: Mapping[Key, str]
    left_out: Mapping[str, str]
    prompts: int
    seeds: int
    domain: str
    record: Mapping[str, Any]


def match(
    folder: Path, suite: Suite, file: Path | None = None, limit: int | None = None, domain: str | None = None
) -> Given:
    """Match a folder to the suite's prompts: those of `domain`, or of the user's own `file`, the first `limit`.

    Without a domain, it is the one whose prompts the manifest has, else "open". Raises UserError for a folder
    without media, a damaged manifest and an unknown domain.
    """
    if not folder.is_dir():
        raise UserError(f"--media {folder}: no such folder")
    manifest = folder / "manifest.jsonl"
    rows = read_manifest(manifest) if manifest.is_file() else None
    recorded = read_record(folder) if rows is not None else None
    sets = [load_prompts(suite, name, file) for name in ([domain] if domain else ["open", "sprites"])]
    sets = [replace(s, prompts=s.prompts[:limit]) for s in sets]
    if rows is not None and recorded is not None:
        samples, left_out, prompts = rows, {}, None
        how, domain = "by its own record", str(recorded["model"].get("domain", "open"))
    elif rows is not None:
        prompts = max(sets, key=lambda s: sum(_is_of(row, s) is None for row in rows))
        samples, left_out = _of_suite(rows, prompts)
        how = "by manifest"
        if not samples:
            samples, left_out, prompts = rows, {}, None
            how, domain = "by manifest, with prompts of its own", domain or "open"
            if not any(row.prompt for row in rows):
                how, domain = "by manifest, without prompts", NO_PROMPTS
    else:
        files = media_files(folder, images=suite.frames == 1)
        prompts = sets[0]
        samples, left_out = _by_name(files, suite, prompts)
        how = "by file name"
        if not samples:
            samples, left_out, prompts = _alone(files, images=suite.frames == 1), {}, None
            how, domain = "no prompts: each file is an item of its own", NO_PROMPTS
    samples, refused, more = _settle(samples, suite)
    seeds = Counter(Counter(s.id for s in samples).values()).most_common(1)[0][0] if samples else 0
    expected = len({s.id for s in samples})
    if prompts:
        expected, domain = len(prompts.prompts), prompts.domain
        present = {s.id for s in samples}
        if absent := [p.id for p in prompts.prompts if p.id not in present]:
            names = ", ".join(absent[:NAMED]) + (f" and {len(absent) - NAMED} more" if len(absent) > NAMED else "")
            more["prompts"] = f"{len(absent)} of {expected} have no sample: {names}"
    model: dict[str, Any] = {"name": folder.resolve().name, "kind": "media", "path": str(folder.resolve())}
    if recorded:
        expected = int(recorded.get("prompts", {}).get("n", expected))
        seeds = len(recorded.get("suite", {}).get("seeds", [])) or seeds
        model["made_by"] = recorded["model"]
    else:
        suite_record = {"name": suite.name, "version": suite.version}
        recorded = {"suite": suite_record, "prompts": prompts_record(prompts) if prompts else {}}
    return Given(
        samples=samples,
        refused=refused | _odd_ones(folder, [s for s in samples if (s.id, s.seed) not in refused]),
        left_out=left_out | more,
        prompts=expected,
        seeds=seeds,
        domain=domain or "open",
        record=recorded | {"model": model | {"domain": domain or "open", "matched": how}},
    )


def media_files(folder: Path, images: bool) -> list[PurePosixPath]:
    """The media of a folder and those below it, hidden ones left out, relative to it. Raises UserError for none."""
    wanted = IMAGES if images else VIDEOS | IMAGES
    found = [
        PurePosixPath(path.relative_to(folder).as_posix())
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in wanted and not path.is_dir()
    ]
    if not images and any(path.suffix.lower() in VIDEOS for path in found):  # beside videos, images are their previews
        found = [path for path in found if path.suffix.lower() in VIDEOS]
    found = [path for path in found if not any(part.startswith(".") for part in path.parts)]
    if not found:
        raise UserError(f"--media {folder}: no {'image' if images else 'video'} in it ({' '.join(sorted(wanted))})")
    return found


def named(file: PurePosixPath, prompts: Mapping[str, Prompt]) -> tuple[Prompt, int | None] | None:
    """The prompt, by id or text, and the seed that a file's name states."""
    if file.stem in prompts:
        return prompts[file.stem], None
    if (seeded := SEEDED.fullmatch(file.stem)) and seeded["id"] in prompts:
        return prompts[seeded["id"]], int(seeded["seed"])
    if (seed := SEED.fullmatch(file.stem)) and file.parent.name in prompts:
        return prompts[file.parent.name], int(seed["seed"])
    return None


def _by_name(files: Iterable[PurePosixPath], suite: Suite, prompts: PromptSet) -> tuple[list[Sample], dict[str, str]]:
    known = {p.text: p for p in prompts.prompts} | {p.id: p for p in prompts.prompts}
    samples, left_out = [], {}
    for file in files:
        if found := named(file, known):
            prompt, seed = found
            seed = suite.seeds_of(prompt)[0] if seed is None else seed
            samples.append(Sample(prompt.id, prompt.text, seed, str(file)))
        else:
            left_out[str(file)] = f"is not named after a prompt of {prompts.file}"
    return samples, left_out


def _alone(files: Iterable[PurePosixPath], images: bool) -> list[Sample]:
    """Each file by its own name; images, of which several seeds are compared, by their name without the seed."""
    samples = []
    for file in files:
        if not images:
            samples.append(Sample(str(file), "", 0, str(file)))
        elif seeded := SEEDED.fullmatch(file.stem):
            samples.append(Sample(str(file.with_name(seeded["id"])), "", int(seeded["seed"]), str(file)))
        elif (seed := SEED.fullmatch(file.stem)) and file.parent.name:
            samples.append(Sample(str(file.parent), "", int(seed["seed"]), str(file)))
        else:
            samples.append(Sample(str(file.with_suffix("")), "", 0, str(file)))
    return samples


def _is_of(row: Sample, prompts: PromptSet) -> str | None:
    """Why a manifest's row is no sample of these prompts; None where it is."""
    own = next((p for p in prompts.prompts if p.id == row.id), None)
    if own is None:
        return f"{prompts.file} has no prompt {row.id}"
    if row.prompt and row.prompt.split() != own.text.split():
        return f"its prompt is not the text of {row.id} in {prompts.file}"
    return None


def _of_suite(rows: Sequence[Sample], prompts: PromptSet) -> tuple[list[Sample], dict[str, str]]:
    texts = {p.id: p.text for p in prompts.prompts}
    reasons = [_is_of(row, prompts) for row in rows]
    samples = [replace(row, prompt=texts[row.id]) for row, reason in zip(rows, reasons, strict=True) if reason is None]
    return samples, {row.file: reason for row, reason in zip(rows, reasons, strict=True) if reason is not None}


def _settle(samples: Sequence[Sample], suite: Suite) -> tuple[list[Sample], dict[Key, str], dict[str, str]]:
    """One sample an id and seed, the refused among them, and the files left out: where a seed comes twice nothing
    says which file counts, and a suite of one seed takes the lowest."""
    files: dict[Key, list[Sample]] = {}
    for sample in samples:
        files.setdefault((sample.id, sample.seed), []).append(sample)
    refused = {
        key: f"seed {key[1]} comes {len(same)} times ({', '.join(s.file for s in same)}); which one counts is not known"
        for key, same in files.items()
        if len(same) > 1
    }
    kept = [same[0] for same in files.values()]
    left_out: dict[str, str] = {}
    if len(suite.seeds) == 1:
        lowest: dict[str, int] = {}
        for sample in kept:
            lowest[sample.id] = min(sample.seed, lowest.get(sample.id, sample.seed))
        for sample in kept:
            if sample.seed != lowest[sample.id]:
                left_out[sample.file] = f"the suite takes one seed a prompt, of {sample.id} it is {lowest[sample.id]}"
        kept = [sample for sample in kept if sample.file not in left_out]
    return kept, refused, left_out


def _odd_ones(folder: Path, samples: Sequence[Sample]) -> dict[Key, str]:
    """The samples of another size or frame rate than most: no mean is taken over a mixture."""
    facts: dict[Key, Facts] = {}
    for sample in samples:
        try:
            facts[sample.id, sample.seed] = probe(inside(folder, sample.file))
        except UserError:
            continue  # scoring says why it cannot be read
    sizes = Counter((f.width, f.height) for f in facts.values())
    rates = Counter(f.fps for f in facts.values() if f.fps)
    odd: dict[Key, str] = {}
    for key, fact in facts.items():
        (width, height), _ = sizes.most_common(1)[0]
        if (fact.width, fact.height) != (width, height):
            odd[key] = f"it is {fact.width}x{fact.height}, most are {width}x{height}; mixed sizes are not averaged"
        elif fact.fps and abs(fact.fps / (rate := rates.most_common(1)[0][0]) - 1) > SAME_RATE:
            odd[key] = f"it has {fact.fps} frames a second, most have {rate}; mixed rates are not averaged"
    return odd
