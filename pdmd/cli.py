"""The command line. Bad input is one line on standard error and exit code 2; a failed gate is 1;
an interrupted training is 130, its state saved."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from pdmd.benchmark import commands
from pdmd.benchmark.reproduce.command import reproduce
from pdmd.errors import INTERRUPTED, Stopped, UserError
from pdmd.version import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Distil image and video diffusion models into few steps, and measure what was kept.",
)


@app.command()
def train(
    method: Annotated[str | None, typer.Option(help="dmd, few-step, sgts, phased or tdm.  \\[phased]")] = None,
    teacher: Annotated[
        str | None, typer.Option(help="sprites, sprites-i2v, mixture, a diffusers folder or a hub id.  \\[sprites]")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="A TOML file of settings; the teacher's own where left out.")
    ] = None,
    student: Annotated[
        str | None, typer.Option(help="full, or lora: adapters on the teacher's weights.  \\[the recipe's]")
    ] = None,
    fake: Annotated[str | None, typer.Option(help="The same for the fake-score network F.  \\[the recipe's]")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value, over the recipe; repeatable. (keys: README.md, pdmd/config.py)"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder.  \\[runs/TEACHER-METHOD]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, to the same weights.")] = False,
) -> None:
    """Distil a teacher into a few-step student.

    Under torchrun (torchrun --nproc-per-node N -m pdmd train ...) the processes share the batch and the weights.
    """
    from pdmd import parallel

    with parallel.joined():
        _train(method, teacher, recipe, student, fake, set_ or [], out, resume)


def _train(
    method: str | None,
    teacher: str | None,
    recipe: Path | None,
    student: str | None,
    fake: str | None,
    overrides: list[str],
    out: Path | None,
    resume: bool,
) -> None:
    from pdmd import parallel
    from pdmd.config import make_config
    from pdmd.run import Run, new_folder
    from pdmd.train import Interrupted, prepare
    from pdmd.train import train as run_training

    if resume:
        if out is None:
            raise UserError("--resume needs --out, the folder of the run to go on with")
        if method or teacher or recipe or student or fake or overrides:
            raise UserError("--resume takes the run's own settings; leave out all others but --out")
        run = Run.reopen(out)
        if (run.student / "student.json").is_file():
            print(f"{out} is finished: its student is {run.student}")
            return
        task = prepare(run.config)
    else:
        kinds = [f"{key}={value}" for key, value in (("student", student), ("fake", fake)) if value]
        config = make_config(method, teacher, recipe, [*kinds, *overrides])
        task = prepare(config)  # before the folder is made: bad input leaves nothing behind
        run = Run.create(parallel.agreed(out or new_folder(config)), config)
    print(f"training {run.config.method} from {run.config.teacher} into {run.folder}")
    with _progress(quiet=parallel.rank() > 0) as progress:
        bar = progress.add_task("starting", total=run.config.generator_steps, figures="")

        def report(step: int, total: int, stage: int, row: dict[str, float]) -> None:
            figures = f"F {row['fake_loss']:.3f}  |g| {row['gradient_norm']:.3f}"
            if "probe/fidelity" in row:
                figures += f"  fidelity {row['probe/fidelity']:.2f}  distance {row['probe/distance']:.2f}"
            progress.update(bar, completed=step, total=total, description=f"phase {stage + 1}", figures=figures)

        try:
            written = run_training(run, task, resume, report, lambda text: progress.console.print(f"warning: {text}"))
        except (Interrupted, Stopped) as stop:
            progress.stop()
            if parallel.rank() == 0:
                where = f"interrupted at step {stop}" if isinstance(stop, Interrupted) else "interrupted"
                print(f"{where}; go on with: pdmd train --resume --out {run.folder}", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
    print(f"student: {written}")
    print("next:   ", "\n         ".join(_next(task.teacher, run.folder)))


def _next(teacher: Any, run: Path) -> list[str]:
    """What a finished run is for, as far as its teacher can: commands."""
    sample = f'pdmd sample {run} --prompt "..."'
    if teacher.domain == "mixture":
        return [sample]
    if teacher.first_frames:
        frames = "" if teacher.domain == "sprites" else " --first-frames DIR"
        return [f"{sample} --image FILE", f"pdmd bench --suite motion-i2v --model {run}{frames}"]
    suite = "motion" if teacher.frames > 1 else "diversity"
    return [sample, f"pdmd bench --suite {suite} --model {run}"]


@app.command()
def sample(
    model: Annotated[str, typer.Argument(help="A run's folder, a student's folder or a teacher.")],
    prompt: Annotated[str, typer.Option(help="What to show.")],
    image: Annotated[Path | None, typer.Option(help="The first frame, for an image-to-video model.")] = None,
    seed: Annotated[
        list[int] | None, typer.Option(min=0, max=2**62, help="Repeatable; several give a contact sheet.  \\[0]")
    ] = None,
    out: Annotated[Path | None, typer.Option(help=".mp4, or .png for an image or a contact sheet.")] = None,
    frames: Annotated[int | None, typer.Option(help="1 makes an image.  \\[the model's own]")] = None,
    steps: Annotated[int | None, typer.Option(help="A teacher's sampling steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="A teacher's guidance weight w.")] = None,
    negative_prompt: Annotated[
        str | None, typer.Option(help="What that goes away from.  \\[the family's own, mostly empty]")
    ] = None,
    device: Annotated[str, typer.Option(help="Where networks run, in torch's names: cpu, cuda, cuda:1.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="Of their matrix products: float32 or bfloat16.")] = "float32",
) -> None:
    """Make clips or images from a prompt."""
    from pdmd.media import contact_sheet, read_video, write_png, write_video
    from pdmd.sample import load_model
    from pdmd.starts import understood
    from pdmd.teachers import Pictured, compute_in

    seeds = seed or [0]
    if frames is not None and frames < 1:
        raise UserError(f"--frames {frames}: a clip has at least one frame")
    loaded = load_model(model, steps, guidance, compute_in(device, dtype), negative_prompt)
    if loaded.first_frames != (image is not None):
        needs = "goes on from a first frame: give --image FILE" if loaded.first_frames else "takes no --image"
        raise UserError(f"model {loaded.name} {needs}")
    if loaded.domain == "sprites":
        understood([prompt], "--prompt")
    if image is not None:
        prompt = Pictured(prompt, read_video(image).frames[0])
    many = len(seeds) > 1
    still = many or (frames or loaded.frames) == 1
    path = out or Path("sample.png" if still else "sample.mp4")
    if path.suffix != (".png" if still else ".mp4"):
        raise UserError(f"--out {path}: {'an image' if still else 'a clip'} needs {'.png' if still else '.mp4'}")
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: there is no folder {path.parent}")
    pixels = loaded.generate([prompt] * len(seeds), seeds, frames)
    if many:
        scale = max(1, 128 // pixels.shape[2])  # small frames are enlarged, to be seen
        write_png(path, contact_sheet(list(pixels), columns=min(5, pixels.shape[1]), scale=scale))
    elif pixels.shape[1] == 1:
        write_png(path, pixels[0, 0])
    else:
        write_video(path, pixels[0], loaded.fps)
    print(path)


app.command()(commands.bench)
app.command()(commands.report)
app.command()(commands.compare)
app.command()(reproduce)


@app.command()
def export(
    model: Annotated[str, typer.Argument(metavar="RUN", help="A finished run, or a student's folder.")],
    to: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write.")],
    format: Annotated[
        str, typer.Option(help="diffusers: a pipeline with whole experts; lora: a file an expert.")
    ] = "diffusers",
    result: Annotated[
        list[Path] | None, typer.Option(help="A result.json of its benchmark, for the model card; repeatable.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where adapters are merged, in torch's names: cpu, cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="Of whole experts: float32 or bfloat16.")] = "float32",
) -> None:
    """Write a student for other programs: a diffusers pipeline, or LoRA files."""
    from pdmd.benchmark.report import table
    from pdmd.benchmark.result import load
    from pdmd.export import export as export_student
    from pdmd.teachers import compute_in

    tables = [table([load(path / "result.json" if path.is_dir() else path)]) for path in result or []]
    print(export_student(model, to, format, tables, compute_in(device, dtype)))


@app.command()
def doctor() -> None:
    """Check the installation: versions, devices, the embedded teacher, a round trip through a video file."""
    from pdmd.doctor import check

    if not check():
        raise typer.Exit(1)


def _progress(quiet: bool) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[figures]}"), console=Console(stderr=True, quiet=quiet))


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


def main(command: Callable[[], object] = app) -> None:
    """The entry point, also of modules that are commands of their own: turns UserError, and what the system refuses,
    into one line and exit code 2, Ctrl-C and SIGTERM into one line and 130."""
    before = {}
    if "WORLD_SIZE" not in os.environ:  # torchrun ends the others so where one has ended, and that one has spoken
        before = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        command()
    except (UserError, OSError) as error:
        from pdmd.benchmark.markup import visible

        print(f"pdmd: {visible(error)}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate" not in str(error):  # torch's word, on any device
            raise
        print("pdmd: out of memory; make fewer at once: --batch-size, --set batch= or accumulate=", file=sys.stderr)
        sys.exit(2)
    except (Stopped, KeyboardInterrupt):
        print("pdmd: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(*_: object) -> None:
    raise Stopped
