"""What the benchmark's own H.264 costs each metric, on renders of the embedded world.

    python -m pdmd.benchmark.codec [--clips 48] [--out reports/codec]

writes OUT/README.md. The same clips, of the motion suite's first prompts, are written as H.264 and without loss, and
measured from the files; the lossless ones read back as rendered, which is checked. For scale, the same at two other
qualities. The metrics of diversity are of as many clips, eight of each of the diversity suite's first prompts.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pdmd.files import write_text
from pdmd.media import CODEC, LOSSLESS, Codec, codec_record, read_video, write_video
from pdmd.sprites import grammar, world

from . import frechet, stats
from .diversity import Diversity, read_images
from .features.dis import Dis
from .features.sprites import SpritesEncoder
from .generate import Sample
from .motion import Clip, score_clip
from .pairs import sprites_metrics
from .provenance import commit_text
from .report import grid
from .result import Metric
from .score import Item, Media, PromptScore
from .suites import Prompt, get_suite, load_prompts

CLIPS = 48
QUALITIES = (LOSSLESS, CODEC, replace(CODEC, crf=18), replace(CODEC, crf=23))
OF_CLIPS = ("fidelity", "optical_flow_dis", "dynamic_degree_dis")
OF_PROMPTS = ("sprites_similarity", "sprites_distance", "factor_diversity")
METRICS = (*OF_CLIPS, frechet.NAME, *OF_PROMPTS)


@dataclass(frozen=True)
class Row:
    """One metric after one codec: its mean, its change against lossless with an interval, clip by clip or prompt by
    prompt, and on how many of these n it is another number."""

    metric: str
    codec: Codec
    mean: float
    change: float
    interval: stats.Interval | None
    changed: int
    n: int


def write(prompt: Prompt, seed: int, codec: Codec, folder: Path) -> Sample:
    """A prompt's render from a seed, after a codec."""
    video = world.render(world.sample_scene(np.random.default_rng(seed), grammar.parse(prompt.text)))
    sample = Sample(prompt.id, prompt.text, seed, f"{prompt.id}-{seed}{codec.suffix}")
    write_video(folder / sample.file, video, world.FPS, codec)
    if codec == LOSSLESS and not np.array_equal(read_video(folder / sample.file).frames, video):
        raise ValueError(f"{sample.file} did not come back as it was rendered")
    return sample


def measure(prompts: Sequence[Prompt], codec: Codec, folder: Path, encoder: SpritesEncoder) -> list[Clip]:
    """The prompts' renders, each from the seed of its number, after a codec."""
    media = Media(folder, folder, "motion", "render", "sprites", ())
    samples = (write(prompt, prompt.number, codec, folder) for prompt in prompts)
    return [score_clip(media, sample, Dis(), encoder=encoder) for sample in samples]


def measure_prompts(
    prompts: Sequence[Prompt], codec: Codec, folder: Path, encoder: SpritesEncoder
) -> list[PromptScore]:
    """The prompts' renders from all their seeds, after a codec, as `pdmd bench --suite diversity --clips` measures."""
    media = Media(folder, folder, "diversity", "render", "sprites", (), clips=True)
    suite, scorer, found = get_suite("diversity"), Diversity(sprites_metrics(encoder)), list[PromptScore]()
    for prompt in prompts:
        samples = [write(prompt, seed, codec, folder) for seed in suite.seeds_of(prompt)]
        found.append(scorer.score_prompt(media, len(samples), read_images(media, None, samples)))
    return found


def compare(
    codec: Codec, names: Sequence[str], lossy: Sequence[Item | PromptScore], lossless: Sequence[Item | PromptScore]
) -> list[Row]:
    """A row a metric, of the same clips or prompts after a codec and without loss."""
    rows = []
    for name in names:
        after, before = (np.array([one.values[name] for one in group]) for group in (lossy, lossless))
        interval = stats.t_interval(list(after - before)) if (after != before).any() else None
        changed = int((after != before).sum())
        rows.append(Row(name, codec, after.mean(), (after - before).mean(), interval, changed, len(after)))
    return rows


def compare_sets(codec: Codec, lossy: Sequence[Clip], lossless: Sequence[Clip]) -> Row:
    """frechet_sprites of the clips after a codec, the same clips without loss being the base."""
    after, before = (
        {clip.id: {clip.seed: clip.embedding} for clip in group if clip.embedding is not None}
        for group in (lossy, lossless)
    )
    made = frechet.measure(after, before, len(lossy), "lossless", "")
    assert isinstance(made, Metric), made.reason
    changed = sum(not np.array_equal(x, before[key][seed]) for key in after for seed, x in after[key].items())
    return Row(frechet.NAME, codec, made.value, made.value, made.interval, changed, len(lossy))


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = []
    for r in rows:
        name = "lossless" if r.codec == LOSSLESS else f"H.264, crf {r.codec.crf}"
        span = f" ({r.interval.low:+.4f} to {r.interval.high:+.4f})" if r.interval else ""
        change = "–" if r.codec == LOSSLESS else f"{r.change:+.4f}{span}"
        nothing = r.codec == LOSSLESS or r.mean == r.change  # a distance is 0 without loss
        relative = "–" if nothing else f"{r.change / (r.mean - r.change):+.1%}"
        changed = "–" if r.codec == LOSSLESS else f"{r.changed} of {r.n}"
        lines.append((r.metric, name, f"{r.mean:z.4f}", change, relative, changed))
    head = "metric", "written as", "mean", "against lossless (95 % interval)", "relative", "changed"
    return grid(head, lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=CLIPS)
    parser.add_argument("--out", type=Path, default=Path("reports/codec"))
    args = parser.parse_args(arguments)
    motion, diversity = get_suite("motion"), get_suite("diversity")
    seeds = len(diversity.seeds)
    if args.clips < 2 * seeds:
        parser.error(f"--clips starts at {2 * seeds}")
    prompts = load_prompts(motion, "sprites").prompts[: args.clips]
    several = load_prompts(diversity, "sprites").prompts[: args.clips // seeds]
    encoder, rows = SpritesEncoder(), list[Row]()
    with tempfile.TemporaryDirectory() as folder:
        clips = [measure(prompts, codec, Path(folder), encoder) for codec in QUALITIES]
        groups = [measure_prompts(several, codec, Path(folder), encoder) for codec in QUALITIES]
    for codec, one, group in zip(QUALITIES, clips, groups, strict=True):
        rows += [*compare(codec, OF_CLIPS, one, clips[0]), compare_sets(codec, one, clips[0])]
        rows += compare(codec, OF_PROMPTS, group, groups[0])
    rows.sort(key=lambda row: METRICS.index(row.metric))
    text = f"""# What the codec costs

`python -m pdmd.benchmark.codec --clips {args.clips}`, commit {commit_text()}.
n = {len(prompts)} clips of {world.FRAMES} frames, {world.SIZE} x {world.SIZE}, {world.FPS} frames a second: renders of
the motion suite's first prompts, each from the seed of its number. Of diversity, n = {len(several)} prompts of
{seeds} such clips each. The benchmark writes
`{codec_record(CODEC)}`,
with `--lossless` `{codec_record(LOSSLESS)}`, which read back bit by bit.

{table(rows)}

A change is the mean over clips, or prompts, of the metric after the codec minus that without loss, on the same one;
relative to the lossless mean. `{frechet.NAME}` is the distance of the clips after the codec from those without loss.
Flow is in pixels a frame, by
{Dis().label(world.SIZE, world.SIZE)}.
"""
    write_text(args.out / "README.md", text)
    print(table(rows))


if __name__ == "__main__":
    main()
