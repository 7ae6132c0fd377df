"""Generation: resumable at any sample, and batching changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pdmd.benchmark.generate import generate, read_manifest
from pdmd.benchmark.suites import PromptSet, get_suite, load_prompts
from pdmd.errors import UserError

SUITE = get_suite("motion")


@pytest.fixture
def prompts() -> PromptSet:
    read = load_prompts(SUITE, "sprites")
    return replace(read, prompts=read.prompts[:5])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_second_run_makes_nothing(prompts, renderer, tmp_path) -> None:
    first = generate(SUITE, prompts, renderer, tmp_path)
    before = contents(tmp_path)
    assert len(renderer.asked) == 5
    done: list[int] = []
    assert generate(SUITE, prompts, renderer, tmp_path, progress=done.append) == first
    assert len(renderer.asked) == 5
    assert done == [5]
    assert contents(tmp_path) == before


def test_batch_size_and_interruption_change_nothing(prompts, make_renderer, tmp_path) -> None:
    generate(SUITE, prompts, make_renderer(), tmp_path / "whole", batch_size=5)
    model = make_renderer()
    model.fail_after = 2
    with pytest.raises(KeyboardInterrupt):
        generate(SUITE, prompts, model, tmp_path / "killed", batch_size=2)
    model.fail_after = None
    generate(SUITE, prompts, model, tmp_path / "killed", batch_size=1)
    assert len(model.asked) == 5  # two before the interruption, three after
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_half_written_sample_is_made_again(prompts, renderer, tmp_path) -> None:
    samples = generate(SUITE, prompts, renderer, tmp_path)
    whole = contents(tmp_path)
    cut, gone = (tmp_path / samples[1].file, tmp_path / samples[3].file)
    cut.write_bytes(cut.read_bytes()[:-7])
    gone.unlink()
    generate(SUITE, prompts, renderer, tmp_path)
    assert renderer.asked[5:] == [(samples[i].prompt, samples[i].seed) for i in (1, 3)]
    assert contents(tmp_path) == whole


def test_a_manifest_line_cut_short_is_made_again(prompts, renderer, tmp_path) -> None:
    generate(SUITE, prompts, renderer, tmp_path)
    whole = contents(tmp_path)
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-20])
    generate(SUITE, prompts, renderer, tmp_path)
    assert len(renderer.asked) == 6
    assert contents(tmp_path) == whole


def test_another_model_or_prompt_is_another_sample(prompts, renderer, tmp_path) -> None:
    generate(SUITE, prompts, renderer, tmp_path)
    renderer.identity = renderer.identity | {"version": 2}
    samples = generate(SUITE, prompts, renderer, tmp_path)
    assert len(renderer.asked) == 10
    changed = replace(prompts.prompts[0], text=prompts.prompts[1].text)
    generate(SUITE, replace(prompts, prompts=(changed, *prompts.prompts[1:])), renderer, tmp_path)
    assert len(renderer.asked) == 11
    assert len({s.identity for s in samples}) == 5


def test_one_frame_is_a_png(prompts, renderer, tmp_path) -> None:
    samples = generate(replace(SUITE, frames=1), prompts, renderer, tmp_path)
    assert all(s.file.endswith(".png") and (tmp_path / s.file).is_file() for s in samples)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"id": "a", "seed": 0', "line 1"),
        ('{"id": "a", "seed": 0, "prompt": "x"}', "needs id, prompt, seed and file"),
        ('["a"]', "not a manifest line"),
        ('{"id": "a", "seed": 0, "prompt": "x", "file": "../../etc/passwd"}', "outside"),
        ('{"id": "a", "seed": 0, "prompt": "x", "file": "/etc/passwd"}', "outside"),
    ],
)
def test_a_bad_manifest_is_one_clear_line(tmp_path, line: str, says: str) -> None:
    (tmp_path / "manifest.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=says):
        read_manifest(tmp_path / "manifest.jsonl")


def test_a_folder_that_cannot_be_written_is_one_clear_line(prompts, renderer, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        generate(SUITE, prompts, renderer, tmp_path / "file" / "out")
    assert not renderer.asked
