"""What the benchmark's own H.264 costs each metric, on renders of the embedded world.

    python -m pdmd.benchmark.codec [--clips 48] [--out reports/codec]

writes OUT/README.md. The same clips, of the motion suite's first prompts, are written as H.264 and without loss, and
measured from the files; the lossless ones read back as rendered, which is checked. For scale, the same at two other
qualities.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pdmd.files import write_text
from pdmd.sprites import grammar, world

from . import stats
from .features.dis import Dis
from .generate import Sample
from .media import CODEC, LOSSLESS, Codec, codec_record, read_video, write_video
from .motion import Clip, score_clip
from .provenance import commit_text
from .report import grid
from .score import Media
from .suites import Prompt, get_suite, load_prompts

CLIPS = 48
QUALITIES = (LOSSLESS, CODEC, replace(CODEC, crf=18), replace(CODEC, crf=23))
METRICS = ("fidelity", "optical_flow_dis", "dynamic_degree_dis")


@dataclass(frozen=True)
class Row:
    """One metric after one codec: its mean, its change against lossless clip by clip with an interval, and on how
    many clips it is another number."""

    metric: str
    codec: Codec
    mean: float
    change: float
    interval: stats.Interval | None
    changed: int


def measure(prompts: Sequence[Prompt], codec: Codec, folder: Path) -> list[Clip]:
    """The prompts' renders, each from the seed of its number, after a codec."""
    media = Media(folder, folder, "motion", "render", "sprites", ())
    clips = []
    for prompt in prompts:
        rng = np.random.default_rng(prompt.number)
        video = world.render(world.sample_scene(rng, grammar.parse(prompt.text)))
        sample = Sample(prompt.id, prompt.text, prompt.number, f"{prompt.id}{codec.suffix}")
        write_video(folder / sample.file, video, world.FPS, codec)
        if codec == LOSSLESS and not np.array_equal(read_video(folder / sample.file).frames, video):
            raise ValueError(f"{sample.file} did not come back as it was rendered")
        clips.append(score_clip(media, sample, Dis()))
    return clips


def compare(codec: Codec, clips: Sequence[Clip], lossless: Sequence[Clip]) -> list[Row]:
    """A row a metric, of the same clips after a codec and without loss."""
    rows = []
    for name in METRICS:
        after, before = (np.array([clip.values[name] for clip in group]) for group in (clips, lossless))
        interval = stats.t_interval(list(after - before)) if (after != before).any() else None
        rows.append(Row(name, codec, after.mean(), (after - before).mean(), interval, int((after != before).sum())))
    return rows


def table(rows: Sequence[Row], n: int) -> str:
    """The rows as Markdown."""
    lines = []
    for r in rows:
        name = "lossless" if r.codec == LOSSLESS else f"H.264, crf {r.codec.crf}"
        span = f" ({r.interval.low:+.4f} to {r.interval.high:+.4f})" if r.interval else ""
        change = "–" if r.codec == LOSSLESS else f"{r.change:+.4f}{span}"
        relative = "–" if r.codec == LOSSLESS else f"{r.change / (r.mean - r.change):+.1%}"
        changed = "–" if r.codec == LOSSLESS else f"{r.changed} of {n}"
        lines.append((r.metric, name, f"{r.mean:.4f}", change, relative, changed))
    head = "metric", "written as", "mean", "against lossless (95 % interval)", "relative", "clips that changed"
    return grid(head, lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=CLIPS)
    parser.add_argument("--out", type=Path, default=Path("reports/codec"))
    args = parser.parse_args(arguments)
    if args.clips < 2:
        parser.error("--clips starts at 2")
    prompts = load_prompts(get_suite("motion"), "sprites").prompts[: args.clips]
    with tempfile.TemporaryDirectory() as folder:
        measured = [measure(prompts, codec, Path(folder)) for codec in QUALITIES]
    rows = [row for codec, clips in zip(QUALITIES, measured, strict=True) for row in compare(codec, clips, measured[0])]
    rows.sort(key=lambda row: METRICS.index(row.metric))
    text = f"""# What the codec costs

`python -m pdmd.benchmark.codec --clips {args.clips}`, commit {commit_text()}.
n = {len(prompts)} clips of {world.FRAMES} frames, {world.SIZE} x {world.SIZE}, {world.FPS} frames a second: renders of
the motion suite's first prompts, each from the seed of its number. The benchmark writes
`{codec_record(CODEC)}`,
with `--lossless` `{codec_record(LOSSLESS)}`, which read back bit by bit.

{table(rows, len(prompts))}

A change is the mean over clips of the metric after the codec minus that without loss, on the same clip; relative to
the lossless mean. Flow is in pixels a frame, by
{Dis().label(world.SIZE, world.SIZE)}.
"""
    write_text(args.out / "README.md", text)
    print(table(rows, len(prompts)))


if __name__ == "__main__":
    main()
