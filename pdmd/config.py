"""The configuration of a training run: a frozen dataclass, TOML recipes, strict overrides."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pdmd import parallel
from pdmd.errors import UserError, first_line, suggest
from pdmd.files import parse_toml
from pdmd.plan import METHODS, Interval, Plan, Target, Weight, with_options
from pdmd.teachers import EMBEDDED, Compute, Weights

Training = Literal["full", "lora"]


@dataclass(frozen=True)
class Config:
    """Every setting of a run. None means: as the method, or the teacher, has it."""

    method: str = "phased"
    teacher: str = "sprites"
    seed: int = 0
    # The plan.
    steps: int = 4  # of the student's trajectory; dmd has one
    phases: int | None = None  # phased alone
    boundary: int | None = None  # phased alone: the steps of the first phase
    shift: float = 5.0  # of the grid
    sgts: bool | None = None  # phased alone: random stops inside a phase
    interval: Interval | None = None  # phased and tdm
    target: Target | None = None
    weight: Weight | None = None
    t_shift: float = 1.0  # of the noise levels t that F and the generator's gradient are taken at; 1: uniform
    fits: int | None = None  # F's fits to a generator step
    ema: float | None = None  # decay of the averaged generator; 0: none
    # What is trained: whole copies of the teacher's network, or LoRA adapters on its frozen weights.
    student: Training = "full"
    student_rank: int = 64
    student_alpha: float = 8.0
    fake: Training = "full"
    fake_rank: int = 64
    fake_alpha: float = 8.0
    # The run.
    generator_steps: int = 400  # over all phases
    early_steps: int = 0  # of these, those of each phase before the last; 0: as many as of the last
    batch: int = 16
    accumulate: int = 1  # parts that a batch is computed in, one after another; changes nothing else
    context: int = 1  # processes that share out one sample's tokens
    # How networks are run: pdmd.teachers.Compute.
    dtype: Literal["float32", "bfloat16"] = "float32"
    checkpointing: bool = False
    offload: bool = False
    compile: bool = False
    device: str = "cpu"
    # Optimisers.
    lr: float = 1e-4
    fake_lr: float = 1e-4
    beta1: float = 0.0
    beta2: float = 0.999
    guidance: float | None = None  # the teacher's weight w
    guidance_2: float | None = None  # its low-noise expert's, beside guidance; none: the same
    negative_prompt: str | None = None  # what guidance goes away from
    image_every: int = 4  # every n-th step on single frames; 0: never
    prompts: str = ""  # a file: one prompt a line, or .jsonl of {"text", "image"}; empty: the teacher's own
    prompt_count: int = 2048  # how many of the teacher's own
    embeddings: str = ""  # the folder that keeps those of prompts; empty: ~/.cache/pdmd/embeddings
    pool: int = 512  # boundary samples drawn once a phase; 0: simulated anew each time
    pool_refresh: int = 0  # draw the pool anew after so many generator steps; 0: never
    checkpoint_every: int = 50
    keep: int = 2  # checkpoints
    probe_every: int = 30  # health figures and contact sheet; 0: never

    def plan(self) -> Plan:
        """The method's plan with this run's options. Raises UserError for what the method does not take."""
        if self.method not in METHODS:
            raise UserError(f"no method {self.method!r}: {suggest(self.method, METHODS)}")
        make = METHODS[self.method]
        takes = make.__kwdefaults__ or {}
        options: dict[str, Any] = {"phases": self.phases, "boundary": self.boundary}
        options |= {"interval": self.interval, "random_stop": self.sgts}
        for name, value in options.items():
            if value is not None and name not in takes:
                raise UserError(f"method {self.method} takes no {'sgts' if name == 'random_stop' else name}")
        options |= {"steps": self.steps, "shift": self.shift}
        try:
            plan = make(**{k: v for k, v in options.items() if v is not None and k in takes})
        except ValueError as error:
            raise UserError(f"method {self.method}: {error}") from None
        if self.generator_steps < len(plan.stages):
            raise UserError(f"generator_steps {self.generator_steps} are fewer than the phases, {len(plan.stages)}")
        if self.early_steps * (len(plan.stages) - 1) >= self.generator_steps:
            raise UserError(f"early_steps {self.early_steps} leave none of {self.generator_steps} for the last phase")
        return with_options(
            plan, target=self.target, weight=self.weight, fits=self.fits, ema=self.ema, t_shift=self.t_shift
        )

    @property
    def weights(self) -> Weights | None:
        """The weights w that replace the teacher's own. Raises UserError for the second without the first."""
        if self.guidance_2 is None:
            return self.guidance
        if self.guidance is None:
            raise UserError("guidance_2 is the second of two weights: set guidance as well")
        return (self.guidance, self.guidance_2)

    @property
    def compute(self) -> Compute:
        return Compute(self.dtype, self.checkpointing, self.offload, self.compile, self.device)

    @property
    def rows_at_once(self) -> int | None:
        """The most samples that a pool or a probe makes at once in a process, where memory is short: as many as a part
        of a batch has; else all that there are."""
        short = self.accumulate > 1 or self.checkpointing
        return -(-self.batch // (self.accumulate * (parallel.size() // self.context))) if short else None

    @property
    def embeddings_folder(self) -> Path:
        """Where prompt embeddings are kept; $PDMD_CACHE stands for ~/.cache/pdmd."""
        cache = Path(os.environ.get("PDMD_CACHE") or "~/.cache/pdmd")
        return (Path(self.embeddings) if self.embeddings else cache / "embeddings").expanduser()


POSITIVE = frozenset(
    "steps phases boundary shift t_shift generator_steps batch lr fake_lr prompt_count keep checkpoint_every "
    "accumulate context student_rank student_alpha fake_rank fake_alpha".split()
)
NOT_NEGATIVE = frozenset(
    "seed early_steps fits ema beta1 beta2 guidance guidance_2 image_every pool pool_refresh probe_every".split()
)
BELOW_ONE = ("ema", "beta1", "beta2")
#: The most of a number: more is a slip, and would fill the memory before it is noticed. Others: 10^9.
MOST = {"steps": 1000, "phases": 1000, "prompt_count": 10**6, "pool": 10**6, "seed": 2**62}


def make_config(
    method: str | None = None,
    teacher: str | None = None,
    recipe: Path | None = None,
    overrides: Sequence[str] = (),
) -> Config:
    """A configuration from a recipe (the teacher's own where none is given) and `key=value` overrides.

    Raises UserError for an unknown key, with the nearest one, and for a value of the wrong type or range.
    """
    texts = dict(_parse_override(text) for text in overrides)
    given = {"method": method, "teacher": teacher}
    if recipe is not None:
        settings = _read_toml(recipe, recipe.name)
    else:
        name = teacher or texts.get("teacher") or Config.teacher
        settings = _read_toml(files("pdmd.recipes") / f"{name if name in EMBEDDED else 'paper'}.toml", "recipe")
    settings |= {k: v for k, v in given.items() if v is not None}
    values = {k: _check(k, v, str(recipe or "recipe")) for k, v in settings.items()}
    values |= {k: _check(k, _literal(v), "--set") for k, v in texts.items()}
    config = Config(**values)
    config.plan()
    return config


def from_dict(values: Mapping[str, Any], where: str) -> Config:
    """A configuration as a run folder keeps it; strict like a recipe."""
    return Config(**{k: _check(k, v, where) for k, v in values.items()})


def _parse_override(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set {text!r}: expected key=value")
    return key.strip(), value.strip()


def _literal(text: str) -> Any:
    """A TOML value; what is none is a string."""
    try:
        return parse_toml(f"v = {text}")["v"]
    except ValueError:
        return text


def _read_toml(path: Any, name: str) -> dict[str, Any]:
    try:
        return parse_toml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read recipe {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"recipe {name} is not TOML: {first_line(error)}") from None


def _check(key: str, value: Any, where: str) -> Any:
    """The value in its field's type. Raises UserError for an unknown key, a wrong type or range."""
    hints = get_type_hints(Config)
    if key not in hints:
        raise UserError(f"{where}: no setting {key!r}; {suggest(key, [f.name for f in dataclasses.fields(Config)])}")
    kind = next((a for a in get_args(hints[key]) if NoneType in get_args(hints[key]) and a is not NoneType), hints[key])
    literals = get_args(kind) if get_origin(kind) is Literal else ()
    if value is None and NoneType in get_args(hints[key]):
        return None
    if literals:
        if value not in literals:
            raise UserError(f"{where}: {key} = {value!r}; {suggest(str(value), literals)}")
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{where}: {key} = {value!r} is not {'a number' if kind in (int, float) else kind.__name__}")
    low = (key in POSITIVE and value <= 0) or (key in NOT_NEGATIVE and value < 0)
    high = (key in BELOW_ONE and value >= 1) or (kind in (int, float) and value > MOST.get(key, 10**9))
    if low or high or (kind is float and not math.isfinite(value)):
        raise UserError(f"{where}: {key} = {value} is out of range")
    return value
