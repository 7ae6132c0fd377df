"""Long runs: memory and open files stay as they are, logs begin a new file.

PDMD_STEPS and PDMD_CLIPS are the lengths; `nox -s torture` takes 10,000 steps and 2,000 clips.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from forked import DONE, Process
from tried import tell

from pdmd import run as runs
from pdmd.benchmark.diversity import Diversity
from pdmd.benchmark.features.dis import Dis
from pdmd.benchmark.features.sprites import SpritesEncoder
from pdmd.benchmark.generate import Sample, generate
from pdmd.benchmark.motion import Motion
from pdmd.benchmark.pairs import sprites_metrics
from pdmd.benchmark.score import Media
from pdmd.benchmark.suites import get_suite, parse_prompts
from pdmd.config import make_config
from pdmd.media import write_png, write_video
from pdmd.run import Run
from pdmd.sample import load_model
from pdmd.sprites import grammar, world
from pdmd.train import prepare, train

pytestmark = pytest.mark.fault("a long run: memory, open files, logs")
STEPS = int(os.environ.get("PDMD_STEPS", "100"))
CLIPS = int(os.environ.get("PDMD_CLIPS", "40"))
GROWTH = 0.02  # of the memory, at most
SPARE = 2  # files that something opens for good when first used; a leak would open one a checkpoint, a probe or a clip


def footprint() -> tuple[int, int]:
    """Resident memory in pages, and open files."""
    return int(Path("/proc/self/statm").read_text().split()[1]), len(os.listdir("/proc/self/fd"))


def flat(work: Callable[[Callable[[], None]], object], tmp_path: Path) -> None:
    """Do the work in a process of its own; it calls what it is given as it goes on. The most memory and files of the
    last fifth of these calls are those of the second fifth."""

    def watched() -> None:
        seen: list[tuple[int, int]] = []
        work(lambda: seen.append(footprint()))
        (tmp_path / "seen").write_text(json.dumps(seen))

    assert Process(watched).end() == DONE
    seen = np.array(json.loads((tmp_path / "seen").read_text()))
    fifth = len(seen) // 5
    (pages, files), (last_pages, last_files) = (part.max(0) for part in (seen[fifth : 2 * fifth], seen[-fifth:]))
    tell(trials=len(seen), growth=float(last_pages / pages - 1), files=int(files), last_files=int(last_files))
    assert last_pages < (1 + GROWTH) * pages
    assert last_files <= files + SPARE


def test_a_long_training_is_flat(tmp_path):
    every = max(2, STEPS // 50)
    config = make_config(
        "phased",
        "mixture",
        None,
        f"generator_steps={STEPS} batch=8 pool=16 checkpoint_every={every} probe_every={every} prompt_count=8".split(),
    )
    task = prepare(config)
    task.teacher.network()
    run = Run.create(tmp_path / "run", config)
    flat(lambda call: train(run, task, False, lambda *_: call(), lambda text: None), tmp_path)
    assert len(run.metrics.read_text().splitlines()) == STEPS + 1


def test_many_clips_are_flat(tmp_path):
    model = load_model("sprites", 1)
    texts = [text for text in grammar.training_prompts(2 * CLIPS, 0, False) if text][:CLIPS]
    rows = "".join(json.dumps({"id": f"p{i}", "text": text}) + "\n" for i, text in enumerate(texts))
    prompts = parse_prompts(rows.encode(), "p.jsonl", "sprites", 0)
    flat(lambda call: generate(get_suite("motion"), prompts, model, tmp_path, 4, lambda *_: call()), tmp_path)
    assert len((tmp_path / "manifest.jsonl").read_text().splitlines()) == CLIPS


@pytest.mark.parametrize("suite", ["motion", "diversity"])
def test_measuring_many_is_flat(suite, tmp_path):
    """Clips, and prompts of two images, that are renders of the world."""
    samples = []
    for i in range(CLIPS):
        scene = world.sample_scene(np.random.default_rng(i))
        video = world.render(scene, 9)
        if suite == "motion":
            samples.append(Sample(f"p{i}", "a red circle", 0, f"{i}.mp4"))
            write_video(tmp_path / f"{i}.mp4", video, world.FPS)
        else:
            for seed in (0, 1):
                samples.append(Sample(f"p{i}", "a red circle", seed, f"{i}-{seed}.png"))
                write_png(tmp_path / f"{i}-{seed}.png", video[-seed])
    encoder = SpritesEncoder()
    scorers = {"motion": Motion(Dis(), None, encoder), "diversity": Diversity(sprites_metrics(encoder), encoder)}

    def measure(call):
        def track(work, total, names):
            for one in work:
                call()
                yield one

        scored = scorers[suite].score(Media(tmp_path, tmp_path, suite, "renders", "sprites", samples), track)
        assert all(metric.n == CLIPS for metric in scored.metrics)
        assert len(scored.metrics) == (3 if suite == "motion" else 4)

    flat(measure, tmp_path)


def test_logs_begin_a_new_file_and_a_resumed_run_goes_on_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "STEPS", 3)

    def log(run: Run, steps: range) -> None:
        for step in steps:
            run.log(step, loss=step / 2)

    whole, cut = (Run.create(tmp_path / name, make_config("dmd", "mixture")) for name in ("whole", "cut"))
    log(whole, range(8))
    log(cut, range(8))
    for step in (4, -1, 5):
        cut.rewind(step)
        log(cut, range(step + 1, 8))
    for run in (whole, cut):
        run.close()
        files = {path.name: path.read_text().splitlines() for path in run.folder.glob("metrics*")}
        steps = {name: [json.loads(line)["step"] for line in lines] for name, lines in files.items()}
        assert steps == {"metrics.jsonl": [0, 1, 2], "metrics-1.jsonl": [3, 4, 5], "metrics-2.jsonl": [6, 7]}
    assert len(list((whole.folder / "tensorboard").iterdir())) == 3
