"""Runs end to end on the mixture: resume, signals, damage, bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pdmd import state as states
from pdmd.cli import main
from pdmd.config import make_config
from pdmd.errors import UserError
from pdmd.files import PART, SUMS
from pdmd.run import Run
from pdmd.sample import load_model
from pdmd.starts import read_prompts
from pdmd.train import Interrupted, prepare, train

SHORT = ("generator_steps=12", "batch=16", "pool=32", "checkpoint_every=4", "probe_every=5", "keep=9", "prompt_count=8")


def run_once(folder: Path, *overrides: str, method: str = "phased", stop_at: int | None = None) -> Run:
    run = Run.create(folder, make_config(method, "mixture", None, (*SHORT, *overrides)))

    def report(step: int, total: int, stage: int, row: dict) -> None:
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    if stop_at is None:
        train(run, prepare(run.config), False, report, lambda text: None)
    else:
        with pytest.raises(Interrupted):
            train(run, prepare(run.config), False, report, lambda text: None)
    return run


def weights(run: Run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(run.student.glob("*.safetensors"))}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Run:
    return run_once(tmp_path_factory.mktemp("whole") / "run", "ema=0.9")


@pytest.mark.parametrize("stop_at", [3, 6, 9], ids=["first phase", "at the boundary", "second phase"])
def test_resumed_run_is_the_run_bit_for_bit(whole, tmp_path, stop_at):
    run = run_once(tmp_path / "run", "ema=0.9", stop_at=stop_at)
    assert not run.student.exists()
    train(Run.reopen(run.folder), prepare(run.config), True, lambda *_: None, lambda text: None)
    assert weights(run) == weights(whole)

    def losses(r):
        rows = [json.loads(line) for line in r.metrics.read_text().splitlines()]
        return [(row["step"], row.get("fake_loss"), row.get("probe/distance")) for row in rows]

    assert losses(run) == losses(whole)


def test_resume_from_any_kept_checkpoint(whole, tmp_path):
    run = run_once(tmp_path / "run", "ema=0.9")
    for path in states.checkpoints(run.checkpoints)[1:]:
        path.unlink()
    for path in run.student.iterdir():
        path.unlink()
    run.student.rmdir()
    train(Run.reopen(run.folder), prepare(run.config), True, lambda *_: None, lambda text: None)
    assert weights(run) == weights(whole)


def test_a_longer_second_phase_leaves_the_first_expert_as_it_is(whole, tmp_path):
    longer = weights(run_once(tmp_path / "run", "ema=0.9", "early_steps=6", "generator_steps=20"))
    assert [longer[name] == weights(whole)[name] for name in sorted(longer)] == [True, False]
    with pytest.raises(UserError, match="early_steps 6 leave none of 6"):
        make_config("phased", "mixture", None, ("early_steps=6", "generator_steps=6"))


def test_a_run_goes_on_with_what_it_was_begun_with_alone(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\ntwo\n")
    run = run_once(tmp_path / "run", f"prompts={prompts}", stop_at=3)
    path, said = run.folder / "config.json", []

    def resume() -> Path:
        return train(Run.reopen(run.folder), prepare(run.config), True, lambda *_: None, said.append)

    prompts.write_text("one\nthree\n")
    with pytest.raises(UserError, match="was begun with other prompts"):
        resume()
    prompts.write_text("one\ntwo\n")
    begun = json.loads(path.read_text())
    other = begun["made_of"] | {"teacher": begun["made_of"]["teacher"] | {"std": 0.3}}
    path.write_text(json.dumps(begun | {"made_of": other}))
    with pytest.raises(UserError, match="was begun with other teacher"):
        resume()
    older = begun["made_of"] | {"versions": begun["made_of"]["versions"] | {"torch": "1.0"}}
    path.write_text(json.dumps(begun | {"made_of": older}))
    run.student.mkdir()
    with pytest.raises(UserError, match=r"cannot write .*student: File exists; move it away"):
        resume()
    run.student.rmdir()
    assert resume() == run.student
    assert said[0].startswith("begun with torch 1.0, this is ")


def test_another_seed_is_another_run(whole, tmp_path):
    assert weights(run_once(tmp_path / "run", "ema=0.9", "seed=1")) != weights(whole)


@pytest.mark.parametrize("method", ["dmd", "few-step", "sgts", "tdm"])
def test_every_method_trains_and_samples(tmp_path, method):
    run = run_once(tmp_path / "run", method=method)
    model = load_model(str(run.folder))
    assert model.generate([""], [0], None).shape == (1, 1, 64, 64, 3)
    assert len(model.identity["grid"]) == (2 if method == "dmd" else 5)


def test_earlier_expert_is_frozen_in_later_phases(tmp_path):
    run = run_once(tmp_path / "run")
    saved = {p.stem: torch.load(p, weights_only=True)["experts"][0] for p in states.checkpoints(run.checkpoints)}
    late = [saved["step-000008"], saved["step-000012"]]
    assert all(torch.equal(late[0][k], late[1][k]) for k in late[0])
    assert any(not torch.equal(saved["step-000004"][k], late[0][k]) for k in late[0])


def test_pool_gives_the_samples_of_a_simulation(tmp_path):
    """Without a pool the earlier expert is simulated anew: other samples, the same distribution, and it runs."""
    assert weights(run_once(tmp_path / "a", "pool=0")) != weights(run_once(tmp_path / "b"))


def test_one_changed_byte_is_found_and_the_one_before_is_named(tmp_path, monkeypatch, capsys):
    run = run_once(tmp_path / "run", stop_at=9)
    *_, before, newest = states.checkpoints(run.checkpoints)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    with pytest.raises(UserError, match=f"{newest.name} is damaged.*{before.name}"):
        states.load(run.checkpoints)
    newest.write_bytes(content[: len(content) // 3])
    with pytest.raises(UserError, match="is damaged"):
        states.load(run.checkpoints)
    code, err = cli("train", "--resume", "--out", str(run.folder), monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2
    assert f"{newest.name} is damaged" in err
    assert "Traceback" not in err


def test_not_finite_stops_with_step_phase_and_checkpoint(tmp_path):
    run = Run.create(tmp_path / "run", make_config("phased", "mixture", None, (*SHORT, "fake_lr=1e9", "lr=1e9")))
    with pytest.raises(UserError, match=r"not finite at step \d+, phase \d; .*checkpoint"):
        train(run, prepare(run.config), False, lambda *_: None, lambda text: None)


def test_prompts_are_lines_or_the_texts_of_json_lines(tmp_path):
    plain, rows = tmp_path / "a.txt", tmp_path / "a.jsonl"
    plain.write_text("a red circle\n\n  two\u2028rings\n", encoding="utf-8")
    rows.write_text('{"id": "1", "text": "a red circle"}\n\n{"text": "two\u2028rings"}\n', encoding="utf-8")
    assert read_prompts(rows) == read_prompts(plain) == ["a red circle", "two\u2028rings"]


def cli(*args: str, monkeypatch, capsys) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["pdmd", *args])
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, capsys.readouterr().err.strip()


BAD = {
    "method": (["train", "--method", "fased"], "did you mean 'phased'"),
    "teacher": (["train", "--teacher", "spritez"], "no teacher 'spritez'"),
    "key": (["train", "--set", "learning_rate=1"], "no setting 'learning_rate'"),
    "value": (["train", "--set", "batch=-3"], "batch = -3 is out of range"),
    "recipe": (["train", "--recipe", "none.toml"], "cannot read recipe none.toml"),
    "prompts": (["train", "--teacher", "mixture", "--set", "prompts=empty.txt"], "empty.txt is empty"),
    "prompt words": (["train", "--set", "prompts=cats.txt"], "prompt 2: the embedded world has no word 'cat'"),
    "no prompts": (["train", "--teacher", "mixture", "--set", "prompts=gone.txt"], "cannot read prompts gone.txt"),
    "prompt lines": (["train", "--teacher", "mixture", "--set", "prompts=plain.jsonl"], "prompt 1: expected one JSON"),
    "folder": (["train", "--teacher", "plain"], "no model_index.json"),
    "no run": (["train", "--resume", "--out", "plain"], "no run folder"),
    "version": (["train", "--resume", "--out", "future"], "run version 99"),
    "taken": (["train", "--teacher", "mixture", "--out", "plain"], "already exists"),
    "unfinished": (["sample", "begun", "--prompt", "x"], "is not finished"),
    "suffix": (["sample", "mixture", "--prompt", "x", "--out", "x.gif"], "needs .png"),
    "no step for a phase": (["train", "--set", "generator_steps=1"], "generator_steps 1 are fewer than the phases, 2"),
    "prompt's word": (["sample", "sprites", "--prompt", "a blue dog"], "the embedded world has no word 'dog'"),
    "suite": (["bench", "--suite", "motoin"], "motion"),
    "weights": (["bench", "--weights", "raft"], "expected NAME=FILE"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_exit_2_and_leaves_nothing(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n  \n")
    (tmp_path / "plain.jsonl").write_text("a red circle\n")
    (tmp_path / "cats.txt").write_text("a red circle\na cat on a mat\n")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "notes.txt").write_text("mine")
    for name, version in (("future", 99), ("begun", 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"version": version, "config": {}}))
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    args, message = BAD[case]
    code, err = cli(*args, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert "Traceback" not in err
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*")) == before


def test_full_disk_keeps_the_good_checkpoint(tmp_path, monkeypatch, capsys):
    run = run_once(tmp_path / "run", stop_at=5)
    good = states.checkpoints(run.checkpoints)[-1].read_bytes()
    there, sync = [], os.fsync

    def full(descriptor):
        there.extend(run.checkpoints.rglob(PART))
        if there:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    code, err = cli("train", "--resume", "--out", str(run.folder), monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2
    assert "No space left on device; make room and use --resume" in err.splitlines()[-1]
    assert states.checkpoints(run.checkpoints)[-1].read_bytes() == good
    assert there  # a file was half-written
    assert not list(run.folder.rglob(PART))


def test_one_changed_byte_of_a_student_is_found_and_its_file_named(tmp_path):
    run = run_once(tmp_path / "run")
    listing = run.student / SUMS
    listed = [line.split("  ")[1] for line in listing.read_text().splitlines()]
    assert listed == ["expert_0.safetensors", "expert_1.safetensors", "student.json"]
    for name in listed:
        whole = (run.student / name).read_bytes()
        (run.student / name).write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
        with pytest.raises(UserError, match=f"{name} is damaged"):
            load_model(str(run.folder))
        (run.student / name).write_bytes(whole)
    (run.student / "README.md").write_text("mine")
    load_model(str(run.folder))
    stated = listing.read_bytes()
    for at in range(len(stated)):
        listing.write_bytes(stated[:at] + bytes([stated[at] ^ 1]) + stated[at + 1 :])
        with pytest.raises(UserError, match="is damaged"):
            load_model(str(run.folder))
    listing.unlink()
    load_model(str(run.folder))  # other tools write none


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_interrupt_saves_and_exits_130(tmp_path, name):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "pdmd", "train", "--teacher", "mixture", "--out", str(run)]
    settings = ["--set", "generator_steps=9999", "--set", "probe_every=0", "--set", "pool=32"]
    with subprocess.Popen([*command, *settings], stderr=subprocess.PIPE, text=True) as process:
        metrics = run / "metrics.jsonl"
        while process.poll() is None and (not metrics.exists() or len(metrics.read_text().splitlines()) < 5):
            time.sleep(0.1)
        process.send_signal(getattr(signal, name))
        err = process.stderr.read()
    assert process.returncode == 130, err
    assert "--resume" in err
    assert states.load(run / "checkpoints")["step"] >= 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_run_starts_or_its_student_is_written_is_one_line(tmp_path, number, monkeypatch, capsys):
    def killed(*_: object) -> None:
        os.kill(os.getpid(), number)
        time.sleep(10)

    settings = [part for text in SHORT for part in ("--set", text)]
    command, run = ["train", "--teacher", "mixture", *settings, "--out", str(tmp_path / "run")], tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("pdmd.train.prepare", killed)
        assert cli(*command, monkeypatch=patch, capsys=capsys) == (130, "pdmd: interrupted")
        assert not run.exists()
    line = f"interrupted; go on with: pdmd train --resume --out {run}"
    for name, part in (("states.begin", command), ("finish", ["train", "--resume", "--out", str(run)])):
        with monkeypatch.context() as patch:
            patch.setattr(f"pdmd.train.{name}", killed)
            code, err = cli(*part, monkeypatch=patch, capsys=capsys)
        assert (code, err.splitlines()[-1]) == (130, line)
        assert not (run / "student").exists()
    assert cli("train", "--resume", "--out", str(run), monkeypatch=monkeypatch, capsys=capsys)[0] == 0
    assert (run / "student").is_dir()
