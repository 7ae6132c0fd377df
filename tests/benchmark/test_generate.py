"""Generation: resumable at any sample; a sample is the same to the last bit however it came to be made."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import wan

from pdmd.benchmark.generate import Model, Sample, generate, read_manifest, sample_identity
from pdmd.benchmark.shards import Shard
from pdmd.benchmark.suites import PromptSet, get_suite, load_prompts
from pdmd.errors import UserError
from pdmd.media import CODEC, LOSSLESS, Codec, read_video
from pdmd.sample import load_model

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
    assert len(renderer.asked) == 8  # one batch, filled up
    done: list[tuple[int, int]] = []
    assert generate(SUITE, prompts, renderer, tmp_path, progress=lambda *counts: done.append(counts)) == first
    assert len(renderer.asked) == 8
    assert done == [(5, 5)]
    assert contents(tmp_path) == before


def test_fewer_prompts_for_once_lose_no_sample(prompts, renderer, tmp_path) -> None:
    whole = generate(SUITE, prompts, renderer, tmp_path)
    few = replace(prompts, prompts=prompts.prompts[:2])
    assert generate(SUITE, few, renderer, tmp_path) == whole[:2] == read_manifest(tmp_path / "manifest.jsonl")
    (tmp_path / whole[4].file).write_bytes(b"changed meanwhile")
    asked = len(renderer.asked)
    assert generate(SUITE, prompts, renderer, tmp_path) == whole
    assert read_manifest(tmp_path / "others.jsonl") == []
    assert len(renderer.asked) == asked + 8  # of one that was changed, its batch


def test_a_sample_is_its_model_s_wherever_that_lies(prompts, make_renderer) -> None:
    here, there = make_renderer(), make_renderer()
    here.identity["path"], there.identity["path"] = "runs/a", "/home/a"
    keys = {sample_identity(model, prompts.prompts[0], 0, None, 8) for model in (here, there)}
    assert len(keys) == 1


def test_interruption_changes_nothing(prompts, make_renderer, tmp_path) -> None:
    generate(SUITE, prompts, make_renderer(), tmp_path / "whole", batch_size=2)
    model = make_renderer()
    model.fail_after = 2
    with pytest.raises(KeyboardInterrupt):
        generate(SUITE, prompts, model, tmp_path / "killed", batch_size=2)
    model.fail_after = None
    generate(SUITE, prompts, model, tmp_path / "killed", batch_size=2)
    assert len(model.asked) == 6  # one batch before the interruption, two after
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_samples_of_another_batch_size_are_made_again_and_never_mixed(prompts, make_renderer, tmp_path) -> None:
    model = make_renderer()
    model.fail_after = 2
    with pytest.raises(KeyboardInterrupt):
        generate(SUITE, prompts, model, tmp_path, batch_size=2)
    model.fail_after = None
    samples = generate(SUITE, prompts, model, tmp_path, batch_size=1)
    assert model.asked[2:] == [(p.text, seed) for p in prompts.prompts for seed in SUITE.seeds_of(p)]
    assert read_manifest(tmp_path / "manifest.jsonl") == samples
    assert json.loads((tmp_path / "generation.json").read_text())["media"]["batch_size"] == 1


def test_a_network_s_sample_is_the_same_bits_resumed_shared_out_and_of_fewer_prompts(prompts, tmp_path) -> None:
    """With a real pipeline, whose sums differ by roundings with the size of the batch."""
    model = load_model(str(wan(tmp_path / "tiny")), 2)
    generate(SUITE, prompts, model, tmp_path / "whole", 4, codec=LOSSLESS)
    whole = contents(tmp_path / "whole" / "media")
    assert len(set(whole.values())) == 5
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    for name in ("m001-1.mkv", "m004-4.mkv"):
        (tmp_path / "resumed" / "media" / name).unlink()
    generate(SUITE, prompts, model, tmp_path / "resumed", 4, codec=LOSSLESS)
    assert contents(tmp_path / "resumed" / "media") == whole
    run_together(prompts, [model] * 2, tmp_path / "shared", 4, LOSSLESS)
    assert contents(tmp_path / "shared" / "media") == whole
    few = replace(prompts, prompts=prompts.prompts[:2])  # alone in a batch filled up, not with the next two
    generate(SUITE, few, model, tmp_path / "few", 4, codec=LOSSLESS)
    assert contents(tmp_path / "few" / "media") == {name: whole[name] for name in ("m000-0.mkv", "m001-1.mkv")}


def test_a_half_written_sample_is_made_again(prompts, renderer, tmp_path) -> None:
    samples = generate(SUITE, prompts, renderer, tmp_path, batch_size=1)
    whole = contents(tmp_path)
    cut, gone = (tmp_path / samples[1].file, tmp_path / samples[3].file)
    cut.write_bytes(cut.read_bytes()[:-7])
    gone.rename(gone.with_name(f".{gone.stem}.part1234.mp4"))  # killed before the rename
    generate(SUITE, prompts, renderer, tmp_path, batch_size=1)
    assert renderer.asked[5:] == [(samples[i].prompt, samples[i].seed) for i in (1, 3)]
    assert contents(tmp_path) == whole


def test_a_manifest_line_cut_short_is_made_again(prompts, renderer, tmp_path) -> None:
    generate(SUITE, prompts, renderer, tmp_path)
    whole = contents(tmp_path)
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-20])
    generate(SUITE, prompts, renderer, tmp_path)
    assert len(renderer.asked) == 16  # its batch, of which the others are kept
    assert contents(tmp_path) == whole


@pytest.fixture
def make_mixing(make_renderer):
    """A model whose pixels depend on what shares their batch, as a network's last digits do."""

    class Mixing(make_renderer):
        def generate(self, prompts: Sequence[str], seeds: Sequence[int], frames: int | None) -> np.ndarray:
            return super().generate(prompts, seeds, frames) // 2 + np.uint8(sum(seeds))

    return Mixing


def test_killed_resumed_and_shared_out_a_batch_is_the_same_batch(prompts, make_mixing, tmp_path) -> None:
    generate(SUITE, prompts, make_mixing(), tmp_path / "whole", 2, codec=LOSSLESS)
    whole = contents(tmp_path / "whole")
    model = make_mixing()
    model.fail_after = 4
    with pytest.raises(KeyboardInterrupt):
        generate(SUITE, prompts, model, tmp_path / "killed", 2, codec=LOSSLESS)
    (tmp_path / "killed" / "media" / "m002-2.mkv").unlink()
    samples = run_together(prompts, [make_mixing(), make_mixing()], tmp_path / "killed", 2, LOSSLESS)
    assert contents(tmp_path / "killed") == whole
    assert [s.id for s in samples[0]] == [p.id for p in prompts.prompts]
    models = [make_mixing() for _ in range(3)]
    run_together(prompts, models, tmp_path / "shared", 2, LOSSLESS)
    assert contents(tmp_path / "shared") == whole
    assert [len(model.asked) for model in models] == [2, 2, 2]  # the last one filled up


def run_together(
    prompts: PromptSet, models: Sequence[Model], out: Path, batch_size: int = 2, codec: Codec = CODEC
) -> list[list[Sample]]:
    """Several processes' generate() as threads with a barrier; what each returns. They take turns, each at work until
    it waits: an autoencoder keeps its state."""
    barrier, turn = threading.Barrier(len(models), timeout=600), threading.Lock()

    def wait() -> None:
        turn.release()
        try:
            barrier.wait()
        finally:
            turn.acquire()

    def share(rank: int, model: Model) -> list[Sample]:
        with turn:
            shard = Shard(rank, len(models), wait)
            return generate(SUITE, prompts, model, out, batch_size, codec=codec, shard=shard)

    with ThreadPoolExecutor(len(models)) as pool:
        jobs = [pool.submit(share, rank, model) for rank, model in enumerate(models)]
        return [job.result() for job in jobs]


def test_lossless_is_another_sample_and_exact(prompts, renderer, tmp_path) -> None:
    lossy = generate(SUITE, prompts, renderer, tmp_path)
    exact = generate(SUITE, prompts, renderer, tmp_path, codec=LOSSLESS)
    assert len(renderer.asked) == 16
    assert not {s.identity for s in lossy} & {s.identity for s in exact}
    for sample in exact:
        made = renderer.generate([sample.prompt], [sample.seed], None)[0]
        read = read_video(tmp_path / sample.file)
        np.testing.assert_array_equal(read.frames, made)
        assert read.fps == 8
    recorded = json.loads((tmp_path / "generation.json").read_text())["media"]["video"]
    assert recorded == {"codec": "ffv1", "pix_fmt": "bgr0", "threads": 1}


def test_another_model_or_prompt_is_another_sample(prompts, renderer, tmp_path) -> None:
    generate(SUITE, prompts, renderer, tmp_path, batch_size=1)
    renderer.identity = renderer.identity | {"version": 2}
    samples = generate(SUITE, prompts, renderer, tmp_path, batch_size=1)
    assert len(renderer.asked) == 10
    changed = replace(prompts.prompts[0], text=prompts.prompts[1].text)
    generate(SUITE, replace(prompts, prompts=(changed, *prompts.prompts[1:])), renderer, tmp_path, batch_size=1)
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
        ('{"id": "a", "seed": 0, "prompt": 3, "file": "x"}', "not a manifest line"),
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
