"""Output folders that may not be written or lie on another device, clocks that are set back, too little memory."""

import itertools
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from forked import DONE, Process

from pdmd.benchmark.run import run_suite
from pdmd.benchmark.suites import get_suite
from pdmd.cli import main
from pdmd.config import make_config
from pdmd.errors import UserError
from pdmd.files import claim
from pdmd.media import write_video
from pdmd.run import Run
from pdmd.sprites import world
from pdmd.train import prepare, train

SHORT = "generator_steps=6 batch=4 pool=8 checkpoint_every=2 probe_every=3 prompt_count=8".split()
CONFIG = make_config("phased", "mixture", None, SHORT)


def pdmd(arguments: list[object], monkeypatch) -> int:
    """The exit code of a command line."""
    monkeypatch.setattr(sys, "argv", ["pdmd", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture(scope="module")
def task():
    loaded = prepare(CONFIG)
    loaded.teacher.network()  # fitted once
    return loaded


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for i in range(2):
        write_video(folder / f"m{i:03d}-{i}.mp4", world.render(world.sample_scene(np.random.default_rng(i)), 5), 8)
    return folder


def trained(folder: Path, task) -> dict[str, bytes]:
    student = train(Run.create(folder, CONFIG), task, False, lambda *_: None, lambda text: None)
    return {path.name: path.read_bytes() for path in student.iterdir()}


@pytest.mark.fault("a folder that may not be written")
def test_a_folder_that_may_not_be_written_is_one_line(task, clips, small_disk, tmp_path, monkeypatch, capsys):
    trained(tmp_path / "run", task)
    (result,) = run_suite(get_suite("motion"), [], tmp_path / "bench", media=[clips], domain="sprites", quiet=True)
    begun = Run.create(small_disk / "begun", CONFIG)
    begun.close()
    (small_disk / "old").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    there = sorted(small_disk.rglob("*"))
    settings = [part for text in SHORT for part in ("--set", text)]
    commands = [
        ["train", "--teacher", "mixture", *settings, "--out", small_disk / "new"],
        ["train", "--resume", "--out", small_disk / "begun"],
        ["bench", "--media", clips, "--quiet", "--out", small_disk / "new"],
        ["bench", "--media", clips, "--quiet", "--out", small_disk / "old"],
        ["bench", "--model", "sprites", "--limit", "1", "--quiet", "--out", small_disk / "new"],
        ["sample", tmp_path / "run", "--prompt", "", "--out", small_disk / "a.png"],
        ["report", result, "--out", small_disk / "new"],
        *(["compare", result, result, f"--{kind}", small_disk / "x"] for kind in ("html", "markdown", "junit", "json")),
    ]
    for command in commands:
        assert pdmd(command, monkeypatch) == 2, command
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "Read-only file system" in line, command
    assert sorted(small_disk.rglob("*")) == there


@pytest.mark.fault("a folder on another device")
def test_a_folder_on_another_device_is_as_good(task, make_renderer, tmp_path):
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK) or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is no other device")
    with tempfile.TemporaryDirectory(dir=shm) as far:
        (tmp_path / "link").symlink_to(far)
        assert trained(tmp_path / "link" / "run", task) == trained(tmp_path / "run", task)
        assert (Path(far) / "run" / "student").is_dir()
        made = []
        for out in (tmp_path / "link" / "bench", tmp_path / "bench"):
            (path,) = run_suite(get_suite("motion"), [make_renderer()], out, limit=2, quiet=True)
            made.append((path.with_name("manifest.jsonl").read_bytes(), path.with_name("items.csv").read_bytes()))
        assert made[0] == made[1]


@pytest.mark.fault("a clock set back")
def test_a_clock_that_is_set_back_changes_nothing(task, tmp_path, monkeypatch):
    whole = trained(tmp_path / "whole", task)
    backwards = itertools.count(4e9, -1e5)
    monkeypatch.setattr(time, "time", lambda: next(backwards))

    def stop(step: int, *_) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(Run.create(tmp_path / "cut", CONFIG), task, False, stop, lambda text: None)
    for age, path in enumerate(sorted((tmp_path / "cut").rglob("*"))):
        os.utime(path, (4e9 - age * 1e6,) * 2)  # the newest checkpoint is the oldest file
    student = train(Run.reopen(tmp_path / "cut"), task, True, lambda *_: None, lambda text: None)
    assert {path.name: path.read_bytes() for path in student.iterdir()} == whole


@pytest.mark.fault("two processes in one folder")
def test_two_benchmarks_in_one_folder_are_refused(clips, tmp_path):
    with claim(tmp_path / "out" / clips.name), pytest.raises(UserError, match="another process is at work"):
        run_suite(get_suite("motion"), [], tmp_path / "out", media=[clips], quiet=True)
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == [".lock"]


@pytest.mark.fault("too little memory")
def test_more_than_the_memory_holds_is_one_line(task, tmp_path, monkeypatch):
    settings = [part for text in (*SHORT, "batch=1000000000") for part in ("--set", text)]

    def work() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30,) * 2)
        with (tmp_path / "said").open("w") as said:
            monkeypatch.setattr(sys, "stderr", said)
            code = pdmd(["train", "--teacher", "mixture", *settings, "--out", tmp_path / "run"], monkeypatch)
        assert code == 2

    assert Process(work).end() == DONE
    assert (tmp_path / "said").read_text().splitlines()[-1].startswith("pdmd: out of memory; make fewer at once")
