"""What the codec costs: nothing without loss, more the worse the quality."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pdmd.benchmark import codec
from pdmd.benchmark.features.sprites import SpritesEncoder
from pdmd.benchmark.motion import Clip
from pdmd.benchmark.suites import get_suite, load_prompts
from pdmd.media import CODEC, LOSSLESS


@pytest.fixture(scope="module")
def encoder() -> SpritesEncoder:
    return SpritesEncoder()


def test_the_change_is_against_the_same_clips_without_loss(encoder, tmp_path) -> None:
    prompts = load_prompts(get_suite("motion"), "sprites").prompts[:2]
    mud = replace(CODEC, crf=50)
    lossless, lossy = (codec.measure(prompts, one, tmp_path, encoder) for one in (LOSSLESS, mud))
    assert [row.change for row in codec.compare(LOSSLESS, codec.OF_CLIPS, lossless, lossless)] == [0, 0, 0]
    fidelity, flow, _ = codec.compare(mud, codec.OF_CLIPS, lossy, lossless)
    assert fidelity.change < 0
    assert flow.changed == 2
    assert flow.mean - flow.change == sum(clip.values["optical_flow_dis"] for clip in lossless) / 2
    text = codec.table([flow])
    assert f"| optical_flow_dis | H.264, crf 50 | {flow.mean:.4f} | {flow.change:+.4f}" in text
    assert text.endswith("2 of 2 |")


def test_diversity_is_of_a_prompt_s_clips(encoder, tmp_path) -> None:
    prompts = load_prompts(get_suite("diversity"), "sprites").prompts[:2]
    mud = replace(CODEC, crf=50)
    lossless, lossy = (codec.measure_prompts(prompts, one, tmp_path, encoder) for one in (LOSSLESS, mud))
    rows = codec.compare(mud, codec.OF_PROMPTS, lossy, lossless)
    assert [(row.metric, row.n) for row in rows] == [(name, 2) for name in codec.OF_PROMPTS]
    assert rows[0].changed == rows[1].changed == 2


def test_the_distance_is_from_the_same_clips_without_loss() -> None:
    shown = np.random.default_rng(0).normal(size=(12, 105))
    lossless, lossy = ([Clip(f"m{i}", i, "", "", embedding=x) for i, x in enumerate(v)] for v in (shown, shown + 0.5))
    assert codec.compare_sets(LOSSLESS, lossless, lossless).change == pytest.approx(0, abs=1e-9)
    row = codec.compare_sets(CODEC, lossy, lossless)
    assert row.change == pytest.approx(105 * 0.25)
    assert (row.changed, row.n) == (12, 12)
    assert "| – | 12 of 12 |" in codec.table([row])
