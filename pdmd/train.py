"""The training loop."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import torch

from pdmd import parallel, room, shards
from pdmd import state as states
from pdmd.config import Config
from pdmd.errors import UserError
from pdmd.files import seal, whole_folder
from pdmd.health import FakeWatch, Probe, fake_lag
from pdmd.plan import Plan
from pdmd.run import Run
from pdmd.starts import Starts
from pdmd.state import State, generator, stage_of
from pdmd.step import NotFinite, finite, fit_fake, update_generator
from pdmd.teachers import CARD, Compute, Teacher, load_teacher

#: (step, total, stage, figures of the step); called after every generator step.
Report = Callable[[int, int, int, dict[str, float]], None]
Say = Callable[[str], None]


class Interrupted(Exception):  # noqa: N818 - a stop that was asked for
    """Ctrl-C or SIGTERM: the state is saved. Holds the step."""


class _Signals:
    """Turns Ctrl-C and SIGTERM into a flag while a run trains, so that a step is never cut in two."""

    def __enter__(self) -> _Signals:
        self.caught = False
        self.before = {s: signal.signal(s, self._catch) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self.caught = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Task:
    """What a configuration asks for, loaded: its plan, its teacher, and what trajectories start from."""

    plan: Plan
    teacher: Teacher
    starts: Starts


def prepare(config: Config) -> Task:
    """Load the teacher and the prompts. Raises UserError for bad input; writes nothing."""
    parallel.share_tokens(config.context)
    parallel.check_batch(config.batch)
    room.check(config)
    plan = config.plan()
    with parallel.in_turn():
        teacher = teacher_of(config, config.compute)
        teacher.shape(teacher.frames)
        starts = Starts(teacher, config, plan)
    if config.context > 1:
        check_tokens(teacher, config, starts.kinds())
    for net in getattr(teacher, "experts", ()):
        shards.shard(net, teacher.device)
    return Task(plan, teacher, starts)


def teacher_of(config: Config, compute: Compute) -> Teacher:
    """A configuration's teacher, run as `compute` says."""
    return load_teacher(config.teacher, config.weights, config.embeddings_folder, compute, config.negative_prompt)


def check_tokens(teacher: Teacher, config: Config, kinds: list[bool]) -> None:
    """Raises UserError where processes cannot share out the tokens of clips, or of single images (`Starts.kinds`)."""
    if config.compile:
        raise UserError("context goes without compile; leave one of them out")
    for image in kinds:
        tokens = teacher.tokens(1 if image else teacher.frames)
        if tokens is None:
            raise UserError(f"context = {config.context}: teacher {teacher.name} does not share out its tokens")
        if tokens % config.context:
            raise UserError(f"context = {config.context} does not go into the {tokens} tokens of a sample")


def train(run: Run, task: Task, resume: bool, report: Report, say: Say) -> Path:
    """Train a run to its end, close it, and return the student's folder; `resume` goes on from its newest checkpoint.

    Raises Interrupted once the state is saved, and UserError for bad input or a number that is not finite.
    """
    with closing(run):
        if parallel.rank() == 0:
            for warning in run.hold_to(task.teacher.identity(), task.starts.sha256):
                say(warning)
        return finish(task.teacher, run, task.plan, _train(run, task, resume, report, say))


def _train(run: Run, task: Task, resume: bool, report: Report, say: Say) -> State:
    config, plan, teacher, starts = run.config, task.plan, task.teacher, task.starts
    probe = Probe(teacher, starts.texts[False], config.rows_at_once) if config.probe_every else None
    saved = resume and states.checkpoints(run.checkpoints)  # none: it was killed before the first
    state = _resume(teacher, run, plan) if saved else states.begin(teacher, config, plan)
    run.rewind(state.step if saved else -1)
    if probe and not saved:
        run.log(0, **probe.reference.flat("teacher"))
    watch = FakeWatch()
    with _Signals() as signals:
        while state.step < config.generator_steps:
            stage, end = stage_of(config, plan, state.step)
            at = state.step + 1
            try:
                row = _step(run, task, state, stage)
                state.step += 1
                last = state.step == end
                if watch.diverges(stage, row["fake_loss"]):
                    say(f"step {state.step}: F diverges, its loss is {watch.growth:.0f} times its least; lower fake_lr")
                if probe and (state.step % config.probe_every == 0 or last):
                    row |= _health(run, task, state, stage, probe, say)
            except NotFinite as name:
                raise _not_finite(run, at, stage, name) from None
            run.log(state.step, stage=stage, **row)
            report(state.step, config.generator_steps, stage, row)
            if last:
                states.hand_on(state)
                if state.step < config.generator_steps:
                    state = states.begin_stage(teacher, config, plan, state.experts, stage + 1, state.step)
            caught = parallel.anywhere(signals.caught)
            if state.step % config.checkpoint_every == 0 or last or caught:
                states.save(state, run.checkpoints, config.keep)
            if caught and state.step < config.generator_steps:
                raise Interrupted(state.step)
    states.prune(run.checkpoints, config.keep)  # a run killed in its last save saves no more
    return state


def _resume(teacher: Teacher, run: Run, plan: Plan) -> State:
    content = states.load(run.checkpoints)
    stage, _ = stage_of(run.config, plan, min(content["step"], run.config.generator_steps - 1))
    experts = states.begin(teacher, run.config, plan).experts
    state = states.begin_stage(teacher, run.config, plan, experts, stage, content["step"])
    state.load(content)
    return state


def _step(run: Run, task: Task, state: State, stage: int) -> dict[str, float]:
    """One generator step with its fits of F before it."""
    plan, teacher, starts = task.plan, task.teacher, task.starts
    began = time.perf_counter()
    g = generator(run.config.seed, 0, stage, state.step)
    phases = plan.stages[stage]
    phase = phases[int(torch.randint(len(phases), (), generator=g))]
    frames = starts.frames(state.step)
    losses, count = [], run.config.accumulate
    for _ in range(plan.fits):
        x, cond = starts.draw(state, stage, phase, frames, g)
        losses.append(fit_fake(teacher, plan, phase, state.expert.net, state.fake, x, cond, g, count))
    x, cond = starts.draw(state, stage, phase, frames, g)
    update = update_generator(teacher, plan, phase, state.expert, state.fake.net, x, cond, g, count)
    for name, kept in (state.average or {}).items():
        kept.lerp_(state.expert.net.get_parameter(name).data, 1 - plan.ema)
    low, middle, high = update.normaliser.cpu().quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
    return {
        "fake_loss": float(torch.stack(losses).mean()) if losses else 0.0,
        "gradient": float(update.gradient),
        "gradient_norm": float(update.norm),
        "normaliser/10%": low,
        "normaliser/50%": middle,
        "normaliser/90%": high,
        "seconds": time.perf_counter() - began,
    }


def _not_finite(run: Run, step: int, stage: int, name: NotFinite) -> UserError:
    """The line for a tensor that is not finite: which, in which step and phase, and what to go back to."""
    saved = states.checkpoints(run.checkpoints)
    back = f"the last good checkpoint is {saved[-1]}" if saved else "there is no checkpoint yet"
    return UserError(f"{name} is not finite at step {step}, phase {stage + 1}; {back}; lower lr or fake_lr")


def _health(run: Run, task: Task, state: State, stage: int, probe: Probe, say: Say) -> dict[str, float]:
    plan, teacher = task.plan, task.teacher
    g = generator(run.config.seed, 2, stage, state.step)
    x, cond = task.starts.draw(state, stage, plan.stages[stage][0], teacher.frames, g)
    latents = finite("the probe's sample", probe.sample(plan, state, stage))
    pixels = teacher.decode(latents)
    figures = probe.measure(latents, pixels)
    run.preview(f"step-{state.step:06d}", pixels)
    if probe.collapsed(figures):
        share = figures.distance / probe.reference.distance
        say(f"step {state.step}: the probe's diversity is {share:.0%} of the teacher's; the student may be collapsing")
    lag = fake_lag(teacher, plan, stage, state, x, cond, g, run.config.accumulate)
    return {"fake_lag": lag, **figures.flat("probe")}


def finish(teacher: Teacher, run: Run, plan: Plan, state: State) -> Path:
    """Write the student's folder, with its checksums, whole or not at all."""
    experts = state.experts
    if parallel.size() > 1:
        weights = [shards.weights_of(net) for net in experts]
        if parallel.rank() > 0:
            return run.student
        teacher = teacher_of(run.config, replace(run.config.compute, device="cpu"))
        experts = states.first_experts(teacher, run.config, plan)
        for net, kept in zip(experts, weights, strict=True):
            net.load_state_dict(kept)
    try:
        with whole_folder(run.student) as temporary:
            teacher.save_student(experts, plan.grid, plan.experts, temporary)
            seal(temporary, CARD)
    except OSError as error:
        advice = "move it away" if isinstance(error, FileExistsError) else "make room"
        raise UserError(f"cannot write {run.student}: {error.strerror}; {advice} and use --resume") from None
    return run.student
