"""Everything a run needs to go on: written whole, by one process with a checksum, and read back exactly."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pdmd import parallel, shard_files, shards
from pdmd.config import Config
from pdmd.errors import UserError
from pdmd.files import write_bytes
from pdmd.plan import Plan
from pdmd.step import Trainee
from pdmd.teachers import Lora, Teacher

#: Raised whenever a checkpoint's content changes its meaning.
VERSION = 1
ADVICE = "make room and use --resume"
#: The last file that torch.distributed.checkpoint writes into a folder.
WHOLE = ".metadata"
#: Where torch has AdamW as one operation.
FUSED = ("cpu", "cuda", "mps", "xpu")


@dataclass
class State:
    """`step` counts generator steps over all stages. `experts` are the networks of the plan, those of
    stages to come still as the teacher; `expert` and `fake` are in training, `average` is the exponential moving
    average of the expert's parameters, by name, where the plan has one."""

    step: int
    experts: list[nn.Module]
    expert: Trainee
    fake: Trainee
    average: dict[str, Tensor] | None

    def tensors(self) -> dict[str, Any]:
        """What a checkpoint holds, besides the configuration."""
        return {
            "step": self.step,
            "experts": [net.state_dict() for net in self.experts],
            "expert": self.expert.optimizer.state_dict(),
            "fake": self.fake.net.state_dict(),
            "fake_optimizer": self.fake.optimizer.state_dict(),
            "average": self.average,
        }

    def load(self, content: dict[str, Any]) -> None:
        """Take on a checkpoint's content. Raises UserError where its shapes are not this run's."""
        try:
            self.step = content["step"]
            if "folder" in content:
                return shard_files.load(self, content["folder"])
            if parallel.size() > 1:
                return shard_files.load_whole(self, content)
            for net, saved in zip(self.experts, content["experts"], strict=True):
                net.load_state_dict(saved)
            self.expert.optimizer.load_state_dict(content["expert"])
            self.fake.net.load_state_dict(content["fake"])
            self.fake.optimizer.load_state_dict(content["fake_optimizer"])
            if self.average is not None:
                for name, kept in self.average.items():
                    kept.copy_(content["average"][name])
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise UserError(f"the checkpoint does not fit this teacher: {str(error).splitlines()[0]}") from None


def stage_of(config: Config, plan: Plan, step: int) -> tuple[int, int]:
    """The stage that a generator step belongs to, and the step at which the next one begins. Stages
    share the steps evenly, or have `early_steps` each; the last one takes what is left over."""
    count = len(plan.stages)
    each = config.early_steps or max(1, config.generator_steps // count)
    stage = min(step // each, count - 1)
    return stage, config.generator_steps if stage == count - 1 else (stage + 1) * each


def begin(teacher: Teacher, config: Config, plan: Plan) -> State:
    """A run's first state: all experts as the teacher, the first stage in training.

    Where the teacher has experts of its own, one that starts from pure noise begins as the teacher's for
    t = 1, and one of a later phase as the teacher's that owns the larger share of the phase.
    """
    experts = [shards.shard(net, teacher.device) for net in first_experts(teacher, config, plan)]
    return begin_stage(teacher, config, plan, experts, 0, 0)


def first_experts(teacher: Teacher, config: Config, plan: Plan) -> list[nn.Module]:
    """The networks of the plan, as they are before the first step."""
    return [teacher.network(plan.level(k), lora_of(config, "student", k)) for k in range(max(plan.experts) + 1)]


def begin_stage(teacher: Teacher, config: Config, plan: Plan, experts: list[nn.Module], stage: int, step: int) -> State:
    """A stage starts its expert and its own F from the teacher; experts of the other stages are frozen.

    Where the teacher has experts of its own, F begins as the one that owns the larger share of the noise
    levels that F is fitted on.
    """
    index, level = plan.stages[stage][0].expert, plan.fake_level(stage)
    for i, net in enumerate(experts):
        net.requires_grad_(i == index).zero_grad(set_to_none=True)
    fake = shards.shard(teacher.network(level, lora_of(config, "fake", stage)), teacher.device)
    teacher.settle([experts[index], fake], [net for i, net in enumerate(experts) if i != index], level)
    average = {k: p.detach().clone() for k, p in experts[index].named_parameters()} if plan.ema else None
    return State(
        step,
        experts,
        Trainee(experts[index], _adamw(experts[index], config.lr, config)),
        Trainee(fake, _adamw(fake, config.fake_lr, config)),
        average,
    )


def lora_of(config: Config, role: str, index: int) -> Lora | None:
    """The adapter that the student's expert `index` is, or F in stage `index`; none where it is a whole network."""
    if role == "student" and config.student == "lora":
        seed = generator(config.seed, 3, index).initial_seed()
        return Lora(f"expert_{index}", config.student_rank, config.student_alpha, seed)
    if role == "fake" and config.fake == "lora":
        return Lora("fake", config.fake_rank, config.fake_alpha, generator(config.seed, 4, index).initial_seed())
    return None


def _adamw(net: nn.Module, lr: float, config: Config) -> torch.optim.Optimizer:
    fused = next(net.parameters()).device.type in FUSED
    return torch.optim.AdamW(net.parameters(), lr=lr, betas=(config.beta1, config.beta2), weight_decay=0.0, fused=fused)


def hand_on(state: State) -> None:
    """At a stage's end the averaged expert, where there is one, becomes the expert."""
    for name, kept in (state.average or {}).items():
        state.expert.net.get_parameter(name).data.copy_(kept)


def generator(*key: int) -> torch.Generator:
    """The random stream of a key such as (seed, stage, step): a resumed run is the run."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))


def save(state: State, folder: Path, keep: int) -> Path:
    """Write step-N.pt and its checksum, or with many processes the folder step-N; keep the newest `keep`. Raises
    UserError where there is no room."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{state.step:06d}.pt"
    if parallel.size() > 1:
        shard_files.save(state, path.with_suffix(""), ADVICE)
        prune(folder, keep)
        return path.with_suffix("")
    buffer = io.BytesIO()
    torch.save({"version": VERSION, **state.tensors()}, buffer)
    write_bytes(path, buffer.getvalue(), ADVICE)
    write_bytes(path.with_suffix(".json"), _note(path, buffer.getvalue()), ADVICE)
    prune(folder, keep)
    return path


def prune(folder: Path, keep: int) -> None:
    """Remove all checkpoints but the newest `keep`, those too that a killed process wrote or removed by half."""
    kept = checkpoints(folder)[-keep:]
    if parallel.rank() > 0:
        return
    for old in [*folder.glob("step-*.pt"), *folder.glob("step-*[0-9]")]:
        if old in kept:
            continue
        if old.is_dir():
            (old / WHOLE).unlink(missing_ok=True)
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.with_suffix(".json").unlink(missing_ok=True)
            old.unlink(missing_ok=True)


def _note(path: Path, content: bytes) -> bytes:
    """What stands beside a checkpoint."""
    note = {"sha256": hashlib.sha256(content).hexdigest(), "version": VERSION, "step": int(path.stem[5:])}
    return (json.dumps(note) + "\n").encode()


def _damaged(path: Path) -> Path | None:
    """The file of a checkpoint that is not as it was written; None where all are. One process alone reads them."""
    bad = None
    if parallel.rank() == 0:
        bad = shard_files.damaged(path) if path.is_dir() else path if _read(path) is None else None
    return parallel.agreed(bad)


def _read(path: Path) -> bytes | None:
    """A checkpoint's bytes; None where they or its note are not those that were written."""
    try:
        content = path.read_bytes()
        return content if path.with_suffix(".json").read_bytes() == _note(path, content) else None
    except OSError:
        return None


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints that were written whole, oldest first."""
    named = [p for p in folder.glob("step-*") if re.fullmatch(r"step-\d{6,}(\.pt)?", p.name)]
    found = [p for p in named if (p.with_suffix(".json") if p.suffix else p / WHOLE).exists()]
    return sorted(found, key=lambda p: int(p.stem[5:]))


def load(folder: Path) -> dict[str, Any]:
    """The newest checkpoint's content; of a folder its step and where it lies. Raises UserError where there is none,
    where it is damaged (naming the newest that is not), or where it is of another version."""
    found = checkpoints(folder)
    if not found:
        raise UserError(f"nothing to resume: {folder} has no checkpoint")
    path = found[-1]
    try:
        version = json.loads(path.with_suffix(".json").read_bytes())["version"]
    except (OSError, ValueError, KeyError, TypeError):
        version = VERSION  # then the note is damaged
    if version != VERSION and isinstance(version, int):
        raise UserError(f"checkpoint {path} is of version {version}, this pdmd reads {VERSION}")
    content = None if path.is_dir() else _read(path)
    if bad := (None if content else _damaged(path)):
        good = next((older for older in reversed(found[:-1]) if not _damaged(older)), None)
        advice = f"delete those after {good.name}, which is whole, and use --resume" if good else "start the run again"
        raise UserError(f"checkpoint {bad} is damaged: its checksum does not match; {advice}")
    if content is None:
        return {"step": int(path.name[5:]), "folder": path}
    return dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))  # each goes where it is
