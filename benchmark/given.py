"""A folder of media made by anything else, matched to a suite's prompts. The folder is only read.

In this order, the first that fits:

1. generation.json beside a manifest.jsonl, as `generate` writes them: its own record says it all.
2. manifest.jsonl: id, prompt, seed and file of each sample, `prompt` optional. The suite's prompts where an id is one
   of them and its text, if stated, is the same; prompts of the manifest's own where none is.
3. File names: ID, ID_seedN, ID-seedN, ID_N, ID-N, or seedN and N in a folder called ID; the prompt's text may stand for
   its ID. Without a seed it is the suite's own.
4. No prompts: each file is an item of its own; for diversity, files that differ in their seed alone are one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from pdmd.errors import UserError
from pdmd.media import IMAGES, VIDEOS, Facts, inside, probe

from .generate import Sample, read_manifest, read_record
from .result import NO_PROMPTS
from .suites import Prompt, PromptSet, Suite, first_frames_record, load_prompts, prompts_record

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


@dataclass(frozen=True)
class Match:
    """Rows or files as samples, by one of the four ways: `prompts` where they are of such a set, and in words `how`."""

    samples: Sequence[Sample]
    domain: str
    how: str
    prompts: PromptSet | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)


def match(
    folder: Path, suite: Suite, file: Path | None = None, limit: int | None = None, domain: str | None = None
) -> Given:
    """Match a folder to the suite's prompts: those of `domain`, or of the user's own `file`, the first `limit`.

    Without a domain, it is the one whose prompts the manifest has, else "open". Raises UserError for a folder
    without media, a damaged manifest, an unknown domain, and a folder that by its own record is of something else.
    """
    if not folder.is_dir():
        raise UserError(f"--media {folder}: no such folder")
    domains = [domain] if domain else sorted(suite.prompt_files, key=lambda name: name != "open")
    sets = [load_prompts(suite, name, file) for name in domains]
    sets = [replace(s, prompts=s.prompts[:limit]) for s in sets]
    recorded = None
    if (manifest := folder / "manifest.jsonl").is_file():
        rows, recorded = read_manifest(manifest), read_record(folder)
        if recorded is not None:
            rows, recorded = _recorded(folder, rows, recorded, suite, file, limit, domain)
            found = Match(rows, str(recorded["model"].get("domain", "open")), "by its own record")
        else:
            found = _by_manifest(rows, sets, domain or "open")
    else:
        found = _by_name(media_files(folder, images=suite.frames == 1), suite, sets[0])
    samples, refused, left_out = _settle(found.samples, suite)
    seeds = Counter(Counter(s.id for s in samples).values()).most_common(1)[0][0] if samples else 0
    present = {s.id for s in samples}
    expected = len(present)
    if found.prompts:
        expected = len(found.prompts.prompts)
        if absent := [p.id for p in found.prompts.prompts if p.id not in present]:
            names = ", ".join(absent[:NAMED]) + (f" and {len(absent) - NAMED} more" if len(absent) > NAMED else "")
            left_out["prompts"] = f"{len(absent)} of {expected} have no sample: {names}"
    model = {"name": folder.resolve().name, "kind": "media", "path": str(folder.resolve())}
    model |= {"domain": found.domain, "matched": found.how}
    record: dict[str, Any]
    if recorded is not None:
        expected = int(recorded.get("prompts", {}).get("n", expected))
        seeds = len(recorded.get("suite", {}).get("seeds", [])) or seeds
        record = recorded | {"model": model | {"made_by": recorded["model"]}}
    else:
        of = {"suite": {"name": suite.name, "version": suite.version}}
        record = of | {"model": model, "prompts": prompts_record(found.prompts) if found.prompts else {}}
        record |= first_frames_record(found.prompts) if found.prompts else {}
    return Given(
        samples=samples,
        refused=refused | _odd_ones(folder, [s for s in samples if (s.id, s.seed) not in refused]),
        left_out={**found.left_out, **left_out},
        prompts=expected,
        seeds=seeds,
        domain=found.domain,
        record=record,
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


def _recorded(
    folder: Path,
    rows: list[Sample],
    record: dict[str, Any],
    suite: Suite,
    file: Path | None,
    limit: int | None,
    domain: str | None,
) -> tuple[list[Sample], dict[str, Any]]:
    """The rows and the record of a folder that has its own, of its first `limit` prompts. Raises UserError where it is
    of another suite, domain or prompt file than was asked for."""
    own, prompts = str(record["model"].get("domain", "open")), record.get("prompts", {})
    name = record.get("suite", {}).get("name", suite.name)
    if name != suite.name:
        raise UserError(f"--media {folder}: by its own record it is of suite {name!r}, not {suite.name!r}")
    if domain not in (None, own):
        raise UserError(f"--domain {domain}: the prompts of {folder} are {own!r}, by its own record")
    if file is not None and load_prompts(suite, own, file).sha256 != prompts.get("sha256"):
        raise UserError(f"--prompts {file}: the samples of {folder} are of other prompts, by its own record")
    if limit is None:
        return rows, record
    ids = list(dict.fromkeys(row.id for row in rows))[:limit]
    record = record | {"prompts": prompts | {"n": min(limit, prompts.get("n", limit))}}
    return [row for row in rows if row.id in ids], record


def _by_manifest(rows: Sequence[Sample], sets: Sequence[PromptSet], domain: str) -> Match:
    """Rows as samples of the set that most of them are of, or of prompts of their own, which are of `domain`."""
    judged = [(s, [_not_of(row, s) for row in rows]) for s in sets]
    prompts, reasons = max(judged, key=lambda of: of[1].count(None))
    texts = {p.id: p.text for p in prompts.prompts}
    found = list(zip(rows, reasons, strict=True))
    if samples := [replace(row, prompt=texts[row.id]) for row, reason in found if reason is None]:
        left_out = {row.file: reason for row, reason in found if reason is not None}
        return Match(samples, prompts.domain, "by manifest", prompts, left_out)
    if any(row.prompt for row in rows):
        return Match(rows, domain, "by manifest, with prompts of its own")
    return Match(rows, NO_PROMPTS, "by manifest, without prompts")


def _not_of(row: Sample, prompts: PromptSet) -> str | None:
    """Why a manifest's row is no sample of these prompts; None where it is."""
    own = next((p for p in prompts.prompts if p.id == row.id), None)
    if own is None:
        return f"{prompts.file} has no prompt {row.id}"
    if row.prompt and row.prompt.split() != own.text.split():
        return f"its prompt is not the text of {row.id} in {prompts.file}"
    return None


def _by_name(files: Sequence[PurePosixPath], suite: Suite, prompts: PromptSet) -> Match:
    """Files as samples of the prompts that they are named after; where none is, each an item of its own."""
    known = {p.text: p for p in prompts.prompts} | {p.id: p for p in prompts.prompts}
    samples: list[Sample] = []
    left_out: dict[str, str] = {}
    for file in files:
        if found := named(file, known):
            prompt, seed = found
            seed = suite.seeds_of(prompt)[0] if seed is None else seed
            samples.append(Sample(prompt.id, prompt.text, seed, str(file)))
        else:
            left_out[str(file)] = f"is not named after a prompt of {prompts.file}"
    if samples:
        return Match(samples, prompts.domain, "by file name", prompts, left_out)
    return Match(_alone(files, len(suite.seeds) > 1), NO_PROMPTS, "no prompts: each file is an item of its own")


def _alone(files: Iterable[PurePosixPath], several: bool) -> list[Sample]:
    """Each file by its own name; where `several` seeds are compared, by its name without the seed."""
    samples = []
    for file in files:
        if not several:
            samples.append(Sample(str(file), "", 0, str(file)))
        elif seeded := SEEDED.fullmatch(file.stem):
            samples.append(Sample(str(file.with_name(seeded["id"])), "", int(seeded["seed"]), str(file)))
        elif (seed := SEED.fullmatch(file.stem)) and file.parent.name:
            samples.append(Sample(str(file.parent), "", int(seed["seed"]), str(file)))
        else:
            samples.append(Sample(str(file.with_suffix("")), "", 0, str(file)))
    return samples


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
