"""First frames of image-to-video pairs: they show what is described, hashed, made once; clips of them are measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from pdmd.benchmark import result
from pdmd.benchmark.first_frames import Renders, attach, described, prepare
from pdmd.benchmark.generate import read_manifest
from pdmd.benchmark.run import run_suite
from pdmd.benchmark.suites import FIRST_FRAMES, get_suite, load_prompts
from pdmd.cli import app
from pdmd.errors import UserError
from pdmd.files import sha256
from pdmd.media import read_video, write_png
from pdmd.sprites import grammar, reader, world

SUITE = get_suite(FIRST_FRAMES)


def test_rendered_first_frames_show_what_the_pair_describes(renderer, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("pdmd.sample.load_model", lambda name, **_: renderer)
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
    prepare(SUITE, replace(pairs, prompts=pairs.prompts[:2]), model, tmp_path, batch_size=2)
    assert model.asked == [(p.image, p.number) for p in pairs.prompts[:2]]
    with pytest.raises(UserError, match="prompt x has no 'image'"):
        described(replace(pairs.prompts[0], id="x", image=None), "open")


@pytest.fixture
def make_heir(make_renderer):
    """A model whose clips show what the first frame shows and do what the text says."""

    class Heir(make_renderer):
        first_frames = True

        def generate(self, prompts, seeds, frames):
            seen = [reader.read(prompt.image[None]).factors for prompt in prompts]
            shown = [{name: factors[name] for name in world.IMAGE_FACTORS} for factors in seen]
            texts = [grammar.prompt(s | grammar.parse(p)) for s, p in zip(shown, prompts, strict=True)]
            return super().generate(texts, seeds, frames)

    return Heir


def test_models_go_on_from_rendered_first_frames(make_renderer, make_heir, tmp_path) -> None:
    blind = make_renderer("blind")
    blind.first_frames = True  # it takes the first frame and shows another
    paths = run_suite(SUITE, [make_heir("heir"), blind], tmp_path, limit=4, quiet=True)
    heir, other = (result.load(path) for path in paths)
    assert heir.metric("fidelity").value > 0.9  # after H.264
    assert other.metric("fidelity").value < 0.9 * heir.metric("fidelity").value  # both show what the text states
    assert heir.metric("optical_flow_dis").n == 4
    (base,) = [m.command for m in heir.missing if m.metric == "frechet_sprites"]
    assert base.endswith("--model sprites-i2v")
    frames = read_manifest(tmp_path / "first-frames" / "manifest.jsonl")
    kept = heir.generation["first_frames"]
    assert {key: row["sha256"] for key, row in kept["of"].items()} == {s.id: s.sha256 for s in frames}
    assert kept["sha256"] == other.generation["first_frames"]["sha256"]
    for page in ("report.md", "report.html"):
        assert kept["sha256"] in (tmp_path / "heir" / page).read_text()
    for record in ("generation.json", None):  # measured again, by its own record and by file names
        clips = {"media": [tmp_path / "heir"], "domain": "sprites"}
        (again,) = run_suite(SUITE, [], tmp_path / "again", limit=4, quiet=True, **clips)
        assert result.load(again).metric("fidelity").value == heir.metric("fidelity").value
        if record:
            (tmp_path / "heir" / record).unlink()
            (tmp_path / "heir" / "manifest.jsonl").unlink()


def test_another_first_frame_is_another_sample(make_heir, tmp_path) -> None:
    run_suite(SUITE, [make_heir()], tmp_path, limit=3, quiet=True)
    before = read_manifest(tmp_path / "renderer" / "manifest.jsonl")
    given = tmp_path / "given"
    given.mkdir()
    for i, sample in enumerate(read_manifest(tmp_path / "first-frames" / "manifest.jsonl")):
        image = read_video(tmp_path / "first-frames" / sample.file).frames[0]
        write_png(given / f"{sample.id}.png", image if i else image[:, ::-1].copy())
    model = make_heir()
    run_suite(SUITE, [model], tmp_path, limit=3, quiet=True, first_frames=given)
    after = read_manifest(tmp_path / "renderer" / "manifest.jsonl")
    assert [a.identity == b.identity for a, b in zip(before, after, strict=True)] == [False, True, True]
    with pytest.raises(UserError, match="has no first frame of prompt v003"):
        run_suite(SUITE, [model], tmp_path / "none", limit=4, quiet=True, first_frames=given)
    with pytest.raises(UserError, match="no folder of first frames"):
        run_suite(SUITE, [model], tmp_path / "none", quiet=True, first_frames=tmp_path / "nowhere")
    assert not (tmp_path / "none").exists()


def test_first_frames_of_other_prompts_and_damaged_ones_are_refused(tmp_path) -> None:
    pairs = load_prompts(SUITE, "sprites")
    two = replace(pairs, prompts=pairs.prompts[:2])
    (first, second) = prepare(SUITE, two, Renders(), tmp_path)
    assert [p.first_frame.sha256 for p in attach(two, tmp_path).prompts] == [first.sha256, second.sha256]
    other = replace(two, prompts=(replace(two.prompts[0], image=two.prompts[1].image, text=""), two.prompts[1]))
    with pytest.raises(UserError, match="was made for another prompt than v000"):
        attach(other, tmp_path)
    (tmp_path / first.file).write_bytes((tmp_path / second.file).read_bytes())
    with pytest.raises(UserError, match="is damaged"):
        attach(two, tmp_path)


def test_suites_and_models_that_do_not_go_together_are_refused(renderer, make_heir, tmp_path, monkeypatch) -> None:
    heir = make_heir("heir")
    with pytest.raises(UserError, match="model renderer takes no first frame"):
        run_suite(SUITE, [renderer], tmp_path / "none", quiet=True)
    with pytest.raises(UserError, match="of which suite motion has none"):
        run_suite(get_suite("motion"), [heir], tmp_path / "none", quiet=True)
    heir.domain = "open"
    with pytest.raises(UserError, match="needs --first-frames DIR for heir"):
        run_suite(SUITE, [heir], tmp_path / "none", quiet=True)
    with pytest.raises(UserError, match="needs first frames itself"):
        prepare(SUITE, load_prompts(SUITE, "open"), heir, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    heir.domain = "sprites"
    monkeypatch.setattr("pdmd.sample.load_model", lambda name, **_: heir)
    arguments = ["bench", "--model", "x", "--limit", "1", "--quiet", "--out", str(tmp_path), "--suite"]
    done = CliRunner().invoke(app, [*arguments, "all"])
    assert done.exit_code == 0, done.output
    assert {path.parent.parent.name for path in tmp_path.glob("*/*/result.json")} == {"motion-i2v"}
    wrong = CliRunner().invoke(app, [*arguments, "motion", "--first-frames", "x"]).exception
    assert "--first-frames is for suite motion-i2v" in str(wrong)
