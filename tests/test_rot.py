"""Two runs in one folder; bytes that changed: a second run is refused, a changed byte is found and its file named."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from pdmd import state as states
from pdmd.benchmark.generate import Sample, _line, read_manifest
from pdmd.benchmark.score import Media
from pdmd.config import make_config
from pdmd.errors import UserError
from pdmd.files import SUMS, check_sums, claim, write_sums
from pdmd.media import write_png
from pdmd.run import Run
from pdmd.sprites import encoder
from pdmd.train import prepare, train

pytestmark = pytest.mark.fault("a byte changed")
FLIPS = int(os.environ.get("PDMD_EXAMPLES", "20"))  # of what is too long to try every byte of
SHORT = ("generator_steps=4", "batch=4", "pool=8", "checkpoint_every=1", "probe_every=0", "keep=9", "prompt_count=8")


def flipped(content: bytes, at: int, bit: int = 0) -> bytes:
    changed = bytearray(content)
    changed[at] ^= 1 << bit
    return bytes(changed)


@pytest.mark.fault("two processes in one folder")
def test_a_folder_is_one_process_at_a_time_and_free_once_it_is_killed(tmp_path):
    def child(work) -> int:
        process = os.fork()
        if process == 0:
            try:
                work()
                os._exit(0)
            except UserError:
                os._exit(2)
        return process

    with claim(tmp_path):
        refused = child(lambda: claim(tmp_path))
        assert os.waitstatus_to_exitcode(os.waitpid(refused, 0)[1]) == 2
    ready, tell = os.pipe()

    def hold():
        kept = claim(tmp_path)
        os.write(tell, b"x")
        signal.pause()
        kept.close()

    holder = child(hold)
    os.read(ready, 1)
    with pytest.raises(UserError, match="another process is at work"):
        claim(tmp_path)
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    claim(tmp_path).close()


@pytest.mark.fault("two processes in one folder")
def test_two_runs_in_one_folder_are_refused_and_leave_the_first_as_it_is(tmp_path):
    config = make_config("phased", "mixture", None, SHORT)
    first = Run.create(tmp_path / "run", config)
    before = (tmp_path / "run" / "config.json").read_bytes()
    for again in (lambda: Run.reopen(tmp_path / "run"), lambda: Run.create(tmp_path / "run", config)):
        with pytest.raises(UserError, match=r"another process|already exists"):
            again()
    first.close()
    Run.reopen(tmp_path / "run").close()
    assert (tmp_path / "run" / "config.json").read_bytes() == before


@pytest.mark.fault("training killed")
def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path):
    config = make_config("phased", "mixture", None, (*SHORT, "probe_every=2"))
    task = prepare(config)
    whole = Run.create(tmp_path / "whole", config)
    train(whole, task, False, lambda *_: None, lambda text: None)
    cut = Run.create(tmp_path / "cut", config)
    cut.log(0, stage=0)
    cut.metrics.open("a").write('{"step": 1, "sta')
    (cut.folder / ".config.part77.json").write_text("{")
    cut.close()
    cut = Run.reopen(cut.folder)
    assert not list(cut.folder.glob(".config*"))
    train(cut, task, True, lambda *_: None, lambda text: None)
    for name in ("expert_0.safetensors", "expert_1.safetensors"):
        assert (cut.student / name).read_bytes() == (whole.student / name).read_bytes()
    steps = [[json.loads(line)["step"] for line in run.metrics.read_text().splitlines()] for run in (cut, whole)]
    assert steps[0] == steps[1]


def test_every_changed_byte_of_a_checkpoint_is_found_and_the_newest_whole_one_offered(tmp_path):
    run = Run.create(tmp_path / "run", make_config("phased", "mixture", None, SHORT))
    train(run, prepare(run.config), False, lambda *_: None, lambda text: None)
    *_, good, before, newest = states.checkpoints(run.checkpoints)
    whole, note = newest.read_bytes(), newest.with_suffix(".json").read_bytes()
    rng = np.random.default_rng(0)
    for at in (0, len(whole) - 1, *rng.integers(0, len(whole), FLIPS)):
        newest.write_bytes(flipped(whole, at, int(rng.integers(8))))
        with pytest.raises(UserError, match=f"{newest.name} is damaged.*{before.name}"):
            states.load(run.checkpoints)
    newest.write_bytes(whole)
    for at in range(len(note)):
        newest.with_suffix(".json").write_bytes(flipped(note, at, at % 8))
        with pytest.raises(UserError, match=newest.name):
            states.load(run.checkpoints)
    before.write_bytes(flipped(before.read_bytes(), 1000))
    with pytest.raises(UserError, match=f"{newest.name} is damaged.*those after {good.name}"):
        states.load(run.checkpoints)
    newest.with_suffix(".json").write_bytes(note)
    os.utime(newest, (0, 0))  # the clock was set back: the step counts, not the time
    assert states.load(run.checkpoints)["step"] == 4


def test_every_changed_byte_of_a_manifest_is_found(tmp_path):
    path = tmp_path / "manifest.jsonl"
    lines = [_line(Sample(f"m{i}", "a “red” circle", i, f"media/m{i}.png", "ab" * 32, "cd" * 32)) for i in range(2)]
    content = "".join(lines).encode()
    path.write_bytes(content)
    assert [s.seed for s in read_manifest(path)] == [0, 1]
    for at in range(len(content)):
        path.write_bytes(flipped(content, at, at % 8))
        with pytest.raises(UserError, match=r"manifest\.jsonl"):
            read_manifest(path)


def test_a_changed_media_file_is_named_and_not_measured(tmp_path):
    write_png(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    content = (tmp_path / "a.png").read_bytes()
    media = Media(tmp_path, tmp_path, "motion", "m", "open", [])
    from pdmd.files import sha256

    sample = Sample("a", "", 0, "a.png", sha256(tmp_path / "a.png"))
    assert media.read(sample).frames.shape == (1, 8, 8, 3)
    for at in range(len(content)):
        (tmp_path / "a.png").write_bytes(flipped(content, at))
        with pytest.raises(UserError, match=r"a\.png is damaged"):
            media.read(sample)


def test_a_changed_byte_of_a_shipped_folder_is_found_and_its_file_named(tmp_path):
    (tmp_path / "below").mkdir()
    files = {"below/w.bin": bytes(range(100)), "config.json": b'{"a": 1}\n'}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    write_sums(tmp_path / SUMS)
    check_sums(tmp_path / SUMS)
    for name, content in files.items():
        for at in range(len(content)):
            (tmp_path / name).write_bytes(flipped(content, at))
            with pytest.raises(UserError, match=f"{name} is damaged"):
                check_sums(tmp_path / SUMS)
        (tmp_path / name).write_bytes(content)
    stated = (tmp_path / SUMS).read_bytes()
    for at in range(len(stated)):
        (tmp_path / SUMS).write_bytes(flipped(stated, at, at % 8))
        with pytest.raises(UserError, match="damaged"):
            check_sums(tmp_path / SUMS)
    (tmp_path / SUMS).write_bytes(stated)
    (tmp_path / "below" / "w.bin").unlink()
    with pytest.raises(UserError, match="damaged"):
        check_sums(tmp_path / SUMS)


def test_the_shipped_weights_are_those_of_their_checksums(tmp_path, monkeypatch):
    teacher = Path(encoder.__file__).parent / "teacher"
    check_sums(teacher / SUMS)
    encoder.load()
    shutil.copy(encoder.WEIGHTS, tmp_path)
    shutil.copy(encoder.WEIGHTS.with_name(encoder.ENCODER_SUMS), tmp_path)
    path = tmp_path / encoder.WEIGHTS.name
    monkeypatch.setattr(encoder, "WEIGHTS", path)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    for at in rng.integers(0, len(content), FLIPS // 20):
        path.write_bytes(flipped(content, at, int(rng.integers(8))))
        with pytest.raises(UserError, match=r"encoder\.safetensors is damaged"):
            encoder.load(path)
    shutil.copytree(teacher, tmp_path / "teacher")
    files = sorted(p for p in (tmp_path / "teacher").rglob("*") if p.is_file())
    for _ in range(FLIPS // 20):
        path = files[rng.integers(len(files))]
        content = path.read_bytes()
        path.write_bytes(flipped(content, int(rng.integers(len(content))), int(rng.integers(8))))
        with pytest.raises(UserError, match="damaged"):
            check_sums(tmp_path / "teacher" / SUMS)
        path.write_bytes(content)
