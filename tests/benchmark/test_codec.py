"""What the codec costs: nothing without loss, more the worse the quality."""

from __future__ import annotations

from dataclasses import replace

from pdmd.benchmark import codec
from pdmd.benchmark.media import CODEC, LOSSLESS
from pdmd.benchmark.suites import get_suite, load_prompts


def test_the_change_is_against_the_same_clips_without_loss(tmp_path) -> None:
    prompts = load_prompts(get_suite("motion"), "sprites").prompts[:2]
    mud = replace(CODEC, crf=50)
    lossless, lossy = (codec.measure(prompts, one, tmp_path) for one in (LOSSLESS, mud))
    assert [row.change for row in codec.compare(LOSSLESS, lossless, lossless)] == [0, 0, 0]
    fidelity, flow, _ = codec.compare(mud, lossy, lossless)
    assert fidelity.change < 0
    assert flow.changed == 2
    assert flow.mean - flow.change == sum(clip.values["optical_flow_dis"] for clip in lossless) / 2
    text = codec.table([flow], 2)
    assert f"| optical_flow_dis | H.264, crf 50 | {flow.mean:.4f} | {flow.change:+.4f}" in text
    assert text.endswith("2 of 2 |")
