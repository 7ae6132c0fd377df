"""How large a reproduction is, where it lies, and its students: each trained once, whatever tables it is in."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path

from pdmd.config import Config, from_dict, make_config
from pdmd.errors import UserError
from pdmd.files import claim, parse_json, write_text
from pdmd.run import Run
from pdmd.sample import STUDENT, Guided
from pdmd.state import checkpoints
from pdmd.teachers import EMBEDDED, load_teacher

from ..methods import trained

#: Seconds on two quiet cores (Intel, AVX-512), two processes of one thread each: of a generator step with its fits of
#: F, by method, as a reproduction's students took, and of any on the mixture; of a sample with its measurement, by
#: kind of samples, for a student of 4 steps and for the base of 40 (reports/suites).
STEP = {"dmd": 0.75, "few-step": 1.45, "sgts": 0.95, "phased": 1.0}
MIXTURE_STEP = 0.02
SAMPLE = {"images": (0.06, 0.15), "clips": (0.13, 0.33), "motion": (0.12, 0.31), "motion-i2v": (0.13, 0.31)}
#: Over the recipe, for students of the embedded world's teachers: twice the generator steps, since what SGTS loses
#: shows as training goes on; starts of later phases made anew each time, as noise is for the first; no health figures,
#: which cost a tenth of a run. On the mixture all is the recipe's.
WORLD = ("keep=1", "probe_every=0", "generator_steps=480", "pool=0")
MIXTURE = ("keep=1", "probe_every=180")
WAIT = 20.0  # seconds, for another process
#: F learns at so many times the generator's rate, as in the recipe of the embedded teacher.
FAKE = 2.0


@dataclass(frozen=True)
class Variant:
    """What is trained: a method, with settings beside the recipe. The name names folders. With `times`, the second of
    its two phases has so many times the generator steps that it has otherwise; the first has the same. Where it does,
    step by step, what a shorter one does until that ends, `after` is the shorter one, and it goes on from there."""

    name: str
    method: str
    settings: tuple[str, ...] = ()
    times: int = 1
    after: Variant | None = None


DMD, FEW_STEP, SGTS, PHASED = (Variant(name, name) for name in ("dmd", "few-step", "sgts", "phased"))
CONTINUED = (SGTS, PHASED)  # by longer ones: their last checkpoints are kept until then
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Work:
    """`seeds`: training seeds of every student, 0 and up, in place of each table's own number; `limit`: only the first
    so many prompts of a suite; `overrides`: key=value over the recipe for every student, where a rate `lr` is that of
    every method; `runs`: the folder of students and samples, `out` that of the tables; `command`: as it was typed."""

    teacher: str = "sprites"
    i2v_teacher: str = "sprites-i2v"
    seeds: int | None = None
    limit: int | None = None
    overrides: tuple[str, ...] = ()
    runs: Path = Path("runs/paper")
    out: Path = Path("reports/paper")
    command: str = field(default="pdmd reproduce", compare=False)

    @property
    def rate(self) -> float | None:
        """The learning rate given for every method, None where it is to be chosen."""
        given = [text for text in self.overrides if text.partition("=")[0].strip() == "lr"]
        return make_config("phased", self.teacher, recipe(self.teacher), given).lr if given else None

    def seeds_of(self, own: int) -> range:
        return range(self.seeds or own)


@dataclass(frozen=True)
class Student:
    """One training run of a variant."""

    variant: Variant
    teacher: str
    lr: float
    seed: int

    @property
    def name(self) -> str:
        return f"{Path(self.teacher).name}-{self.variant.name}-lr{self.lr:g}-seed{self.seed}"

    @property
    def shorter(self) -> Student | None:
        """The student that this one goes on from."""
        return dataclasses.replace(self, variant=self.variant.after) if self.variant.after else None

    def settings(self, work: Work) -> list[str]:
        """All settings beside the recipe."""
        own = [f"seed={self.seed}", f"lr={self.lr:g}", f"fake_lr={FAKE * self.lr:g}"]
        texts = [
            *(MIXTURE if self.teacher == "mixture" else WORLD),
            *self.variant.settings,
            *own,
            *(text for text in work.overrides if text.partition("=")[0] != "lr"),
        ]
        if self.variant.times > 1:
            n = make_config(self.variant.method, self.teacher, recipe(self.teacher), texts).generator_steps
            texts += [f"early_steps={n // 2}", f"generator_steps={n // 2 + self.variant.times * (n - n // 2)}"]
        return texts

    def config(self, work: Work) -> Config:
        return make_config(self.variant.method, self.teacher, recipe(self.teacher), self.settings(work))

    def folder(self, work: Work) -> Path:
        return work.runs / "students" / self.name

    def command(self, work: Work) -> str:
        """The public command that trains it."""
        parts = [f"pdmd train --method {self.variant.method} --teacher {self.teacher}"]
        parts += [f"--recipe {path}" for path in [recipe(self.teacher)] if path]
        return " ".join([*parts, *(f"--set {text}" for text in self.settings(work)), f"--out {self.folder(work)}"])


def recipe(teacher: str) -> Path | None:
    """The recipe of `sprites` also for others of its world; None for an embedded one that has its own."""
    recipes = Path(str(files("pdmd.recipes")))
    own = teacher in EMBEDDED and (recipes / f"{teacher}.toml").is_file()
    return None if own else recipes / "sprites.toml"


def there(teacher: str) -> bool:
    """Whether a teacher can be loaded: an embedded one that this version ships, or a folder."""
    return teacher in EMBEDDED or Path(teacher).is_dir()


@cache
def teacher_sha256(teacher: str) -> str:
    """The checksum of a teacher's weights."""
    return str(load_teacher(teacher).identity()["sha256"])


def base(work: Work, teacher: str) -> Guided:
    """The teacher as the base model. Raises UserError where the students in `work.runs` are another one's."""
    model = Guided(load_teacher(teacher))
    if model.domain != "sprites":
        raise UserError(f"teacher {teacher} is of domain {model.domain!r}; the tables need one of the embedded world")
    path, name = work.runs / "teachers.json", Path(teacher).name
    known = parse_json(path.read_bytes()) if path.is_file() else {}
    mine = str(model.identity["sha256"])
    if known.setdefault(name, mine) != mine:
        raise UserError(f"{work.runs} holds students of another teacher {name!r}; move it away, or give another --runs")
    write_text(path, json.dumps(known, indent=1) + "\n")
    return model


def finished(folder: Path) -> bool:
    return (folder / STUDENT / "student.json").is_file()


def train(
    work: Work, students: Sequence[Student], then: Callable[[Student], object] = lambda student: None
) -> dict[str, str]:
    """Train what is not yet trained, and do `then` with each student once it is there; what was stopped goes on from
    its newest checkpoint, and what another process trains is waited for, last. Returns of those that have diverged, by
    name, what was not finite. Raises UserError where a folder holds a student of other settings, and Interrupted by
    Ctrl-C, its state saved."""
    lost: dict[str, str] = {}
    left = list(dict.fromkeys(students))
    while left:
        others = []
        for student in left:
            try:
                ready = _trained_here(work, student)
            except UserError as error:
                if "not finite" not in str(error):
                    raise
                lost[student.name] = str(error)
                continue
            if ready:
                then(student)
            else:
                others.append(student)
        if len(others) == len(left):
            time.sleep(WAIT)
        left = others
    return lost


def _trained_here(work: Work, student: Student) -> bool:
    """Whether the student is there by now; not where another process is at it."""
    folder, wanted = student.folder(work), student.config(work)
    if (path := folder / "config.json").is_file():
        found = dataclasses.asdict(from_dict(dict(parse_json(path.read_bytes())["config"]), str(path)))
        if other := [k for k, v in dataclasses.asdict(wanted).items() if found[k] != v]:
            raise UserError(f"{folder} was trained with another {', '.join(other)}; give another --runs")
    if finished(folder):
        return True
    if busy(folder):
        return False
    print(student.command(work), flush=True)
    try:
        if student.shorter and not folder.exists():
            _begin_after(student.shorter.folder(work), folder, wanted)
        trained(folder, wanted)
    except UserError:
        if busy(folder):  # it was faster
            return False
        raise
    if student.variant not in CONTINUED:
        shutil.rmtree(folder / CHECKPOINTS)  # each a copy of all networks
    if student.shorter:
        shutil.rmtree(student.shorter.folder(work) / CHECKPOINTS, ignore_errors=True)
    return True


def _begin_after(shorter: Path, folder: Path, config: Config) -> None:
    """Begin a run where a shorter one has ended, if its last checkpoint is there: to the last bit what training it from
    the start comes to, as all that is drawn in a step hangs on the seed, the phase and the step alone."""
    saved = checkpoints(shorter / CHECKPOINTS)
    if not saved or not finished(shorter):
        return
    with closing(Run.create(folder, config)) as run:
        shutil.copy(shorter / run.metrics.name, run.metrics)
        run.checkpoints.mkdir()
        for path in (saved[-1], saved[-1].with_suffix(".json")):  # the second says that the first is whole
            shutil.copy(path, run.checkpoints)


def busy(folder: Path) -> bool:
    """Whether another process is at work in a folder."""
    if not folder.is_dir():
        return False
    try:
        claim(folder).close()
    except UserError:
        return True
    return False
