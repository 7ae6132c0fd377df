"""Where rollouts start: noise for the first phase, samples of the frozen experts for later ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from pdmd import parallel
from pdmd.config import Config
from pdmd.errors import UserError
from pdmd.files import parse_json
from pdmd.plan import Phase, Plan
from pdmd.rollout import simulate
from pdmd.state import State, generator
from pdmd.teachers import Cond, Pictured, Teacher

POOL_BATCH = 64


@dataclass
class Starts:
    """Draws (x at the phase's start, condition) for a batch.

    Prompts are encoded once; a draw picks rows of them. In a phase after frozen ones their samples are
    drawn once into a pool of `config.pool`, with the rows they are of, and reused: a pool is a function of
    (seed, phase, refresh), so a resumed run has the same one. Where the earlier phases share the network
    in training there is no pool.
    """

    teacher: Teacher
    config: Config
    plan: Plan
    texts: dict[bool, list[str]] = field(init=False)
    conditions: dict[bool, Cond] = field(init=False)
    pools: dict[tuple[int, int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.texts = {image: self._prompts(image) for image in self.kinds()}
        self.conditions = {}
        for image, texts in self.texts.items():
            if image and texts == self.texts[False]:
                self.conditions[image] = self.conditions[False]
            else:
                self.conditions[image] = self.teacher.encode(texts).to(torch.device("cpu"))  # they may be many

    def kinds(self) -> list[bool]:
        """Whether clips, single images or both are trained on: [False], [False, True]. What goes on from a first
        frame makes clips alone."""
        both = self.config.image_every > 0 and self.teacher.frames > 1 and not self.teacher.first_frames
        return [False, True] if both else [False]

    def frames(self, step: int) -> int:
        """The number of frames that a generator step trains on."""
        every = self.config.image_every
        return 1 if len(self.kinds()) == 2 and step % every == every - 1 else self.teacher.frames

    def _prompts(self, image: bool) -> list[str]:
        if not self.config.prompts:
            return self.teacher.training_prompts(self.config.prompt_count, self.config.seed, image)
        read, path = read_pictured if self.teacher.first_frames else read_prompts, Path(self.config.prompts)
        texts = read(path)
        if self.teacher.domain == "sprites":
            understood(texts, f"prompts {path}")
        return texts

    @property
    def sha256(self) -> str:
        """The checksum of all prompts, with their first frames."""
        digest = hashlib.sha256()
        for texts in self.texts.values():
            for text in texts:
                digest.update(f"{len(text)} {text}".encode())
                if isinstance(text, Pictured):
                    digest.update(text.image.tobytes())
        return digest.hexdigest()

    def draw(self, state: State, stage: int, phase: Phase, frames: int, g: torch.Generator) -> tuple[Tensor, Cond]:
        """A batch of starts and conditions."""
        bank = self._bank(frames)
        before = self.plan.phases[: self.plan.phases.index(phase)]
        training = {p.expert for p in self.plan.stages[stage]}
        if before and self.config.pool and not training & {p.expert for p in before}:
            x, rows = self._pool(state, stage, before, frames)
            index = torch.randint(len(x), (self.config.batch,), generator=g)
            return x[index], bank[rows[index]].to(self.teacher.device)
        z, rows = self._noise(self.config.batch, frames, g)
        cond = bank[rows].to(self.teacher.device)
        return (self._simulate(state, before, z, cond) if before else z), cond

    def _bank(self, frames: int) -> Cond:
        """The conditions of clips, or of single images where both are trained on."""
        return self.conditions[frames == 1 and len(self.kinds()) == 2]

    def _noise(self, n: int, frames: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        """Noise and the rows of the bank that it becomes samples of."""
        z = torch.randn((n, *self.teacher.shape(frames)), generator=g).to(self.teacher.device)
        return z, torch.randint(len(self._bank(frames)), (n,), generator=g)

    def _simulate(self, state: State, before: tuple[Phase, ...], z: Tensor, cond: Cond) -> Tensor:
        """Samples of the phases before, from noise."""
        run = partial(simulate, self.teacher.velocity, state.experts, before)
        return parallel.in_shares(run, z, cond, self.config.rows_at_once)

    def _pool(self, state: State, stage: int, before: tuple[Phase, ...], frames: int) -> tuple[Tensor, Tensor]:
        refresh = state.step // self.config.pool_refresh if self.config.pool_refresh else 0
        key = (stage, frames, refresh)
        if key not in self.pools:
            self.pools = {k: v for k, v in self.pools.items() if (k[0], k[2]) == (stage, refresh)}
            made, bank = [], self._bank(frames)
            for i in range(0, self.config.pool, POOL_BATCH):
                g = generator(self.config.seed, 1, stage, frames, refresh, i)
                z, rows = self._noise(min(POOL_BATCH, self.config.pool - i), frames, g)
                made.append((self._simulate(state, before, z, bank[rows].to(self.teacher.device)), rows))
            self.pools[key] = (torch.cat([x for x, _ in made]), torch.cat([rows for _, rows in made]))
        return self.pools[key]


def read_prompts(path: Path) -> list[str]:
    """A file's prompts: its lines that are not blank, or the "text" of each where it is JSON Lines (.jsonl). Raises
    UserError where it has none, is no text, or a line is no such object."""
    return [row["text"] for _, row in _rows(path, "text")] if path.suffix == ".jsonl" else _lines(path)


def understood(texts: list[str], where: str) -> None:
    """Raises UserError, naming the prompt and the word, where one is not in the embedded world's words."""
    from pdmd.sprites import grammar

    for i, text in enumerate(texts, start=1):
        try:
            grammar.parse(text)
        except ValueError as error:
            raise UserError(f"{where}, prompt {i}: {error}") from None


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").split("\n")]
    except UnicodeDecodeError:
        raise UserError(f"prompts {path} is not UTF-8 text") from None
    except (OSError, ValueError) as error:  # a NUL in its name
        raise UserError(f"cannot read prompts {path}: {getattr(error, 'strerror', error)}") from None
    prompts = [line for line in lines if line]
    if not prompts:
        raise UserError(f"prompts {path} is empty; it needs one prompt a line")
    return prompts


def read_pictured(path: Path) -> list[str]:
    """The prompts of a JSON Lines file of {"text", "image"} with their first frames: `image` is a file, relative to
    the folder of this one. Raises UserError naming the line for anything else."""
    from pdmd.media import read_video

    made: list[str] = []
    for where, row in _rows(path, "text", "image"):
        try:
            made.append(Pictured(row["text"], read_video(path.parent / row["image"]).frames[0]))
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
    return made


def _rows(path: Path, *keys: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Each object of a JSON Lines file by these keys, and where it stands."""
    for i, line in enumerate(_lines(path), start=1):
        where = f"prompts {path}, prompt {i}"
        try:
            row = parse_json(line)
            found = {key: row[key] for key in keys}
        except (ValueError, KeyError, TypeError):
            form = ", ".join(f'"{key}": ...' for key in keys)
            raise UserError(f"{where}: expected one JSON object a line, {{{form}}}") from None
        if wrong := [key for key in keys if not isinstance(row[key], str)]:
            raise UserError(f"{where}: {wrong[0]} must be a string")
        yield where, found
