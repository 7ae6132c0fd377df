"""First frames of image-to-video pairs: they show what is described, hashed, made once; clips of them are measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from pdmd.benchmark import result
from pdmd.benchmark.first_frames import described, prepare
from pdmd.benchmark.generate import generate, read_manifest
from pdmd.benchmark.media import read_video
from pdmd.benchmark.run import run_suite
from pdmd.benchmark.suites import FIRST_FRAMES, get_suite, load_prompts
from pdmd.cli import app
from pdmd.errors import UserError
from pdmd.files import sha256
from pdmd.sprites import grammar, reader

SUITE = get_suite(FIRST_FRAMES)


def test_rendered_first_frames_show_what_the_pair_describes(renderer, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("pdmd.sample.load_model", lambda name: renderer)
    arguments = ["bench", "prepare-i2v", "--model", "any", "--limit", "4", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert str(tmp_path / "manifest.jsonl") in done.output
    made = read_manifest(tmp_path / "manifest.jsonl")
    pairs = load_prompts(SUITE, "sprites").prompts[:4]
    assert [(s.id, s.seed) for s in made] == [(p.id, p.number) for p in pairs]
    for sample, pair in zip(made, pairs, strict=True):
        assert reader.fidelity(grammar.parse(pair.image), reader.read(read_video(tmp_path / sample.file).frames)) == 1
        assert sample.sha256 == sha256(tmp_path / sample.file)
    times = [(tmp_path / s.file).stat().st_mtime_ns for s in made]
    CliRunner().invoke(app, arguments)
    assert [(tmp_path / s.file).stat().st_mtime_ns for s in made] == times  # made once
    assert not renderer.asked  # they are rendered, whatever the model
    wrong = CliRunner().invoke(app, ["bench", "prepare"]).exception
    assert "the only action is prepare-i2v" in str(wrong)


def test_other_first_frames_are_the_models_own_of_the_description(make_renderer, tmp_path) -> None:
    class Open(make_renderer):
        domain = "open"

        def generate(self, prompts, seeds, frames):
            self.asked += zip(prompts, seeds, strict=True)
            assert frames == 1
            return make_renderer().generate(["a red circle"] * len(prompts), seeds, 1)

    pairs = load_prompts(SUITE, "open")
    model = Open()
    prepare(SUITE, replace(pairs, prompts=pairs.prompts[:2]), model, tmp_path)
    assert model.asked == [(p.image, p.number) for p in pairs.prompts[:2]]
    with pytest.raises(UserError, match="prompt x has no 'image'"):
        described(replace(pairs.prompts[0], id="x", image=None), "open")


def test_clips_by_any_tool_are_measured_and_models_are_refused(renderer, tmp_path) -> None:
    pairs = load_prompts(SUITE, "sprites")
    generate(SUITE, replace(pairs, prompts=pairs.prompts[:4]), renderer, tmp_path / "clips")
    (path,) = run_suite(SUITE, [], tmp_path / "out", media=[tmp_path / "clips"], limit=4, quiet=True)
    made = result.load(path)
    assert made.suite == "motion-i2v"
    assert made.metric("fidelity").value > 0.8  # after H.264
    assert made.metric("optical_flow_dis").n == 4
    with pytest.raises(UserError, match="no model takes first frames yet"):
        run_suite(SUITE, [renderer], tmp_path / "none", quiet=True)
    assert not (tmp_path / "none").exists()
