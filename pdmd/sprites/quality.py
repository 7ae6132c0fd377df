"""How good a model of the embedded world is: prompt fidelity, open factors, the autoencoder.

    python -m pdmd.sprites.quality --model sprites --n 800 --out reports/sprites-teacher

writes quality.json and prints it as a table. The prompts are held out; each states a random half of a
random scene's factors and leaves the rest open. To a model that goes on from a first frame the scene's own is given,
and what it shows counts as stated.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from pdmd.sprites import grammar, reader, world
from pdmd.sprites.reader import Reading
from pdmd.sprites.training import clips, psnr, to_model
from pdmd.teachers import Pictured

STATED = 0.5  # probability that a prompt states a factor
BATCH = 40
RECONSTRUCTED = 64  # clips on which the autoencoder is measured


def held_out_scenes(n: int, seed: int) -> list[tuple[str, world.Scene]]:
    """n prompts that no training may use, each stating something and leaving something open, and a scene of each."""
    found: list[tuple[str, world.Scene]] = []
    for i in range(n):
        rng = np.random.default_rng([8, seed, i])
        while True:
            scene = world.sample_scene(rng)
            stated = {k: v for k, v in scene.factors.items() if v is not None and rng.random() < STATED}
            text = grammar.prompt(stated)
            if grammar.held_out(text) and any(v is not None and k not in stated for k, v in scene.factors.items()):
                found.append((text, scene))
                break
    return found


def first_frame(scene: world.Scene) -> np.ndarray:
    """A scene's first frame, uint8 (H, W, 3)."""
    return world.render(scene, 1)[0]


def expected(stated: Mapping[str, str], name: str) -> dict[str, float] | None:
    """The world's own distribution of a factor that a prompt leaves open; None where it is not open.

    Something that stands still has no speed: of it, `speed` is "still".
    """
    if name in stated or (name == "speed" and stated.get("motion") == "still"):
        return None
    values = world.FACTORS[name]
    if name == "motion" and "speed" in stated:
        values = values[1:]
    if name == "speed" and "motion" not in stated:
        still = 1 / len(world.FACTORS["motion"])
        return {"still": still, **{v: (1 - still) / len(values) for v in values}}
    return {v: 1 / len(values) for v in values}


def shown(reading: Reading, name: str) -> str:
    """What a clip shows of a factor; "illegible" where the reader cannot tell."""
    if name == "speed" and reading.factors["motion"] == "still":
        return "still"
    return reading.factors[name] or "illegible"


def open_variation(
    stated: Sequence[Mapping[str, str]], readings: Sequence[Reading], name: str
) -> dict[str, Any] | None:
    """Total variation, in [0, 1], between what clips show of a factor where their prompts leave it open and
    the world's own distribution; what is illegible counts as a value that the world does not have. None where no
    prompt leaves it open."""
    pairs = [(e, shown(r, name)) for s, r in zip(stated, readings, strict=True) if (e := expected(s, name))]
    if not pairs:
        return None
    seen = Counter(value for _, value in pairs)
    values = sorted({value for e, _ in pairs for value in e} | set(seen))
    world_share = {v: sum(e.get(v, 0.0) for e, _ in pairs) / len(pairs) for v in values}
    share = {v: seen[v] / len(pairs) for v in values}
    return {
        "n": len(pairs),
        "total_variation": sum(abs(share[v] - world_share[v]) for v in values) / 2,
        "chance": chance_variation(len(pairs), list(world_share.values())),
        "shown": share,
    }


def chance_variation(n: int, p: Sequence[float]) -> float:
    """The total variation that n draws of the distribution itself have on average."""
    return float(sum(stats.binom(n, x).expect(lambda k, x=x: abs(k / n - x)) for x in p) / 2)


def measure(model: Any, n: int, seed: int = 0) -> dict[str, Any]:
    """Figures of a model (see `pdmd.sample.load_model`) on n prompts, one clip each, noise seeds 0 to n - 1."""
    scenes = held_out_scenes(n, seed)
    prompts = [Pictured(text, first_frame(scene)) if model.first_frames else text for text, scene in scenes]
    readings: list[Reading] = []
    for i in range(0, n, BATCH):
        part = prompts[i : i + BATCH]
        readings += [reader.read(clip) for clip in model.generate(part, range(i, i + len(part)), None)]
        print(f"{len(readings)} of {n} clips", flush=True)
    seen = world.IMAGE_FACTORS if model.first_frames else ()
    stated = [{k: str(scene.factors[k]) for k in seen} | grammar.parse(text) for text, scene in scenes]
    shares = np.array([reader.fidelity(s, r) for s, r in zip(stated, readings, strict=True)])
    half = 1.96 * shares.std(ddof=1) / np.sqrt(n)
    right = {
        name: [r.factors[name] == s[name] for s, r in zip(stated, readings, strict=True) if name in s]
        for name in world.FACTORS
    }
    return {
        "model": model.identity,
        "n": n,
        "seed": seed,
        "fidelity": {"value": shares.mean(), "low": shares.mean() - half, "high": shares.mean() + half},
        "fidelity_of": {name: {"value": float(np.mean(x)), "n": len(x)} for name, x in right.items()},
        "open": {name: of for name in world.FACTORS if (of := open_variation(stated, readings, name))},
    }


@torch.no_grad()
def reconstruction(vae: Any, n: int = RECONSTRUCTED) -> dict[str, float]:
    """Held-out PSNR in dB of the autoencoder: over all of n clips, and over their first frames alone."""
    x = to_model(clips(n, seed=12))
    y = torch.cat([vae.decode(vae.encode(part).latent_dist.mode()).sample for part in x.split(8)])
    return {"clips": n, "psnr": psnr(x, y.clamp(-1, 1)), "psnr_first_frame": psnr(x[:, :, 0], y[:, :, 0].clamp(-1, 1))}


def table(figures: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    f = figures["fidelity"]
    lines = [f"Fidelity {f['value']:.3f} ({f['low']:.3f} to {f['high']:.3f}), n = {figures['n']} held-out prompts."]
    if "autoencoder" in figures:
        lines[0] += f" Autoencoder {figures['autoencoder']['psnr']:.1f} dB."
    head = ("factor", "right where stated", "n", "total variation where open", "by chance", "n")
    lines += ["", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, of in figures["fidelity_of"].items():
        tv = figures["open"].get(name)
        left = (f"{tv['total_variation']:.3f}", f"{tv['chance']:.3f}", tv["n"]) if tv else ("-", "-", 0)
        cells = (name, f"{of['value']:.3f}", of["n"], *left)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    from pdmd.sample import Guided, load_model
    from pdmd.teachers.wan import Wan

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sprites", help="a run, a student's folder or a teacher")
    parser.add_argument("--n", type=int, default=800, help="prompts")
    parser.add_argument("--guidance", type=float, default=None, help="a teacher's guidance weight w")
    parser.add_argument("--out", type=Path, default=None, help="the folder for quality.json")
    args = parser.parse_args()
    model = load_model(args.model, None, args.guidance)
    figures = measure(model, args.n)
    if isinstance(model, Guided) and isinstance(model.teacher, Wan):
        figures["autoencoder"] = reconstruction(model.teacher.pipeline.vae)
    print(table(figures))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "quality.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
