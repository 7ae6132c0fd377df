"""Writes the table of families x methods: does each train, sample, export and come back?

python tests/families_table.py    # about a minute; reports/families. The real classes, tiny, of random weights
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import conftest  # noqa: F401  imports pdmd before diffusers
import tiny
import torch

from pdmd.config import make_config
from pdmd.errors import first_line
from pdmd.export import export
from pdmd.run import Run
from pdmd.sample import load_model
from pdmd.train import prepare, train

FAMILIES = {
    "Wan2.1 T2V": tiny.wan,
    "Wan2.2 T2V-A14B": tiny.wan_two,
    "Wan2.2 I2V-A14B": tiny.wan_i2v,
    "Qwen-Image": tiny.qwen_image,
}
METHODS = {"dmd": (), "few-step": (), "sgts": (), "tdm": (), "phased": (), "phased, 4 phases": ("phases=4",)}
KINDS = {"whole": ("student=full", "fake=full"), "LoRA": ("student=lora", "fake=lora", "student_rank=2", "fake_rank=2")}
SHORT = ("batch=2", "fits=1", "pool=2", "prompt_count=4", "probe_every=0", "lr=1e-3", "image_every=2")
PROMPTS = [tiny.pictured(text) for text in ("a red circle", "two small blue squares moving left")]


def cells(folder: Path, method: str, settings: tuple[str, ...], work: Path) -> list[str]:
    """What came of each of the four, up to the first that failed."""
    made: list[str] = []
    try:
        steps = 4 if "phases=4" in settings else 2
        config = make_config(
            method.partition(",")[0], str(folder), None, (*SHORT, f"generator_steps={steps}", *settings)
        )
        run, losses = Run.create(work / "run", config), []
        train(run, prepare(config), False, lambda *at: losses.append(at[-1]["fake_loss"]), lambda text: None)
        made.append(f"yes, F's loss {losses[0]:.3f}, {losses[-1]:.3f}")
        latents = load_model(str(run.folder)).latents(PROMPTS, [0, 1], None)
        made.append("yes" if bool(torch.isfinite(latents).all()) else "no: not finite")
        out = export(str(run.folder), work / "out")
        made.append("yes")
        again = load_model(str(out)).latents(PROMPTS, [0, 1], None)
        made.append(f"yes, to {(again - latents).abs().max():.1g}")
    except Exception as error:  # the table says what failed
        made.append(f"no: {type(error).__name__}: {first_line(error)}")
    return [*made, *["-"] * (4 - len(made))]


def main() -> None:
    print("| family | networks | method | trains | samples | exports | reloads |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for family, build in FAMILIES.items():
            folder = build(Path(name) / family.replace(" ", "-"))
            for kind, networks in KINDS.items():
                for i, (method, settings) in enumerate(METHODS.items()):
                    if kind == "LoRA" and method != "phased":
                        continue  # methods do not know what a network is
                    work = Path(name) / f"{family}-{kind}-{i}"
                    found = cells(folder, method, (*networks, *settings), work)
                    print(f"| {family} | {kind} | {method} | {' | '.join(found)} |", flush=True)


if __name__ == "__main__":
    main()
