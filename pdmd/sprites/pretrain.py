"""Train the embedded teacher from nothing.

    python -m pdmd.sprites.pretrain --work runs/sprites-teacher
    python -m pdmd.sprites.pretrain --work runs/longer --from pdmd/sprites/teacher
    torchrun --nproc-per-node 2 -m pdmd.sprites.pretrain     # one process a core, or a GPU

Three stages (autoencoder, latents, transformer), each resumable from its last checkpoint in the work folder;
the finished pipeline is written to `<work>/pipeline` in the diffusers format.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from pdmd import parallel
from pdmd.files import SUMS, write_sums
from pdmd.sprites import grammar, world
from pdmd.sprites.autoencoder import train_vae
from pdmd.sprites.diffusion import SHIFT, TOKENS, Batch, fit
from pdmd.sprites.training import to_model
from pdmd.sprites.truth import Truth, covered, labels
from pdmd.sprites.widen import widen

TRANSFORMER_CONFIG = dict(
    patch_size=(1, 2, 2),
    num_attention_heads=6,
    attention_head_dim=32,
    in_channels=12,
    out_channels=12,
    text_dim=64,
    freq_dim=64,
    ffn_dim=640,
    num_layers=6,
    rope_max_seq_len=64,
)
TEXT_CONFIG = dict(d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, dropout_rate=0.0)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word of the grammar; lower case; an end mark."""
    special = ["<pad>", "</s>", "<unk>"]
    vocabulary = {word: i for i, word in enumerate([*special, *grammar.VOCABULARY])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=TOKENS,
    )


LATENTS = 20000
CHUNK = 1000
ENCODED_AT_ONCE = 50


def scenes_of(c: int) -> list[world.Scene]:
    """The scenes of a chunk of the training set."""
    return [world.sample_scene(np.random.default_rng([4, c, i])) for i in range(CHUNK)]


def shown_by_scenes() -> tuple[list[dict[str, str | None]], torch.Tensor]:
    """Of the training set's scenes, their factors and the cells that their objects cover (n, t, h, w)."""
    scenes = [scene for c in range(LATENTS // CHUNK) for scene in scenes_of(c)]
    return [dict(scene.factors) for scene in scenes], torch.from_numpy(np.stack([covered(s) for s in scenes]))


@torch.no_grad()
def encode_latents(work: Path, vae: AutoencoderKLWan, device: str, first_frame: bool = False) -> torch.Tensor:
    """Normalised latents (n, z, t, h, w) of the training set's scenes, float16; of scenes whose first frame alone
    is shown, the rest grey, where `first_frame`."""
    folder = work / ("first-frames" if first_frame else "latents")
    folder.mkdir(exist_ok=True)
    for c in range(LATENTS // CHUNK):
        path = folder / f"{c:03d}.pt"
        if c % parallel.size() != parallel.rank():
            continue
        if not path.exists():
            means, scenes = [], scenes_of(c)
            for i in range(0, CHUNK, ENCODED_AT_ONCE):
                x = to_model(np.stack([world.render(scene) for scene in scenes[i : i + ENCODED_AT_ONCE]])).to(device)
                if first_frame:
                    x[:, :, 1:] = 0
                means.append(vae.encode(x).latent_dist.mean.cpu())
            torch.save(torch.cat(means), path.with_suffix(".tmp"))
            path.with_suffix(".tmp").rename(path)
            print(f"{folder.name} {c + 1}/{LATENTS // CHUNK}", flush=True)
    parallel.wait()
    latents = torch.cat([torch.load(folder / f"{c:03d}.pt", weights_only=True) for c in range(LATENTS // CHUNK)])
    if not any(vae.config.latents_mean):  # an earlier pipeline's transformer knows its own normalisation
        vae.register_to_config(
            latents_mean=latents.mean((0, 2, 3, 4)).tolist(), latents_std=latents.std((0, 2, 3, 4)).tolist()
        )
    mean, std = torch.tensor(vae.config.latents_mean), torch.tensor(vae.config.latents_std)
    return ((latents - mean.view(1, -1, 1, 1, 1)) / std.view(1, -1, 1, 1, 1)).half()


STEPS = 14500
IMAGES_FIRST = 750  # steps on single frames alone: what things look like costs a fifth of what clips cost
IMAGE_EVERY = 3  # after them, every third step trains on single frames
CLIP_BATCH, IMAGE_BATCH = 48, 144
PREVIEW_CLIPS, PREVIEW_STEPS = 24, 40


def train_transformer(
    work: Path,
    vae: AutoencoderKLWan,
    device: str,
    steps: int,
    earlier: WanPipeline | None = None,
    compiled: bool = False,
) -> WanPipeline:
    """Flow matching on latents of clips and of single frames; the text encoder trains along. Both start from
    an `earlier` pipeline's where there is one, whose transformer may be narrower."""
    latents = encode_latents(work, vae, device)
    factors, cells = shown_by_scenes()
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    config = TRANSFORMER_CONFIG
    transformer = widen(earlier.transformer, **config) if earlier else WanTransformer3DModel(**config)
    text_encoder = UMT5EncoderModel(UMT5Config(vocab_size=len(tokenizer), **TEXT_CONFIG)).to(device)
    nets = torch.nn.ModuleDict(dict(transformer=transformer.to(device), text_encoder=text_encoder))
    if earlier:
        text_encoder.load_state_dict(earlier.text_encoder.state_dict())

    def batch_at(step: int, rng: np.random.Generator) -> Batch:
        image = (step < IMAGES_FIRST and not earlier) or step % IMAGE_EVERY == IMAGE_EVERY - 1
        index = rng.integers(0, len(latents), IMAGE_BATCH if image else CLIP_BATCH)
        x0, shown, cover = latents[index].float(), [factors[i] for i in index], cells[index]
        if image:
            x0, cover = x0[:, :, :1], cover[:, :1]
            shown = [{name: f[name] for name in world.IMAGE_FACTORS} for f in shown]
        prompts = [grammar.training_prompt(rng, f, share=rng.random() ** 2) for f in shown]
        return Batch("image_loss" if image else "loss", x0, prompts, Truth(labels(shown), cover))

    def preview(averaged: Any, path: Path) -> None:
        pipeline = assemble(vae, tokenizer, averaged)
        pipeline.save_pretrained(work / "pipeline")
        contact_sheet(pipeline, path)

    return assemble(vae, tokenizer, fit(work, "transformer", nets, tokenizer, batch_at, steps, preview, compiled))


def assemble(vae: AutoencoderKLWan, tokenizer: PreTrainedTokenizerFast, nets: Any) -> WanPipeline:
    """The pipeline of an autoencoder and a pair of `transformer` and `text_encoder`."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    return WanPipeline(tokenizer, nets["text_encoder"], vae, scheduler, nets["transformer"])


def preview_scenes(n: int) -> list[tuple[str, world.Scene]]:
    """n scenes, each with a prompt of it that no training used."""
    rng = np.random.default_rng(6)
    found: list[tuple[str, world.Scene]] = []
    while len(found) < n:
        scene = world.sample_scene(rng)
        text = grammar.prompt({k: v for k, v in scene.factors.items() if v is not None and rng.random() < 0.8})
        if grammar.held_out(text):
            found.append((text, scene))
    return found


def sample(pipeline: Any, prompts: list[str], seeds: Sequence[int], **given: Any) -> np.ndarray:
    """A pipeline's guided clips (n, FRAMES, H, W, 3) in [0, 1]; `given` is what else its call takes."""
    pipeline.set_progress_bar_config(disable=True)
    clips: np.ndarray = pipeline(
        prompt=prompts,
        height=world.SIZE,
        width=world.SIZE,
        num_frames=world.FRAMES,
        num_inference_steps=PREVIEW_STEPS,
        guidance_scale=SETTINGS["guidance"],
        max_sequence_length=TOKENS,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        **given,
    ).frames
    return clips


def contact_sheet(pipeline: WanPipeline, path: Path) -> None:
    """PREVIEW_CLIPS clips of held-out prompts, five frames each, as one PNG."""
    prompts = [text for text, _ in preview_scenes(PREVIEW_CLIPS)]
    draw_strips(sample(pipeline, prompts, range(len(prompts))), prompts, path)


def draw_strips(video: np.ndarray, prompts: list[str], path: Path) -> None:
    """Five frames of each clip (n, FRAMES, H, W, 3) in [0, 1], in two columns, left first; the prompts beside."""
    import matplotlib.image

    shown = np.linspace(0, world.FRAMES - 1, 5).round().astype(int)
    strips = [np.concatenate(clip[shown], axis=1) for clip in video]
    sheet = np.concatenate([np.concatenate(strips[i::2], axis=0) for i in range(2)], axis=1)
    matplotlib.image.imsave(path, np.clip(sheet, 0, 1))
    path.with_suffix(".txt").write_text("\n".join(prompts) + "\n")


#: The shipped teacher.
TEACHER = Path(__file__).parent / "teacher"
#: What the teacher's folder says of itself beside diffusers' own files (see `pdmd.teachers.wan.DEFAULTS`).
SETTINGS = dict(
    domain="sprites",
    frames=world.FRAMES,
    fps=world.FPS,
    height=world.SIZE,
    width=world.SIZE,
    guidance=3.0,
    steps=40,
)


#: The model card: the weights' licence and what they are.
CARD = """---
license: apache-2.0
library_name: diffusers
---

A tiny {kind} of a world of moving sprites, the embedded teacher of pdmd, trained by the project from nothing on clips
that it renders itself (`python -m pdmd.sprites.pretrain`, `pretrain_i2v`). Weights: Apache License 2.0.
"""


def publish(pipeline: Any, folder: Path) -> None:
    """Write the pipeline in 16 bit, with its settings, a model card and the checksums of all its files."""
    for part in (pipeline.transformer, pipeline.text_encoder, pipeline.vae):
        part.half()
    for part in (pipeline.transformer, pipeline.vae):
        part.register_to_config(_name_or_path=folder.name)  # not where it was loaded from
    pipeline.save_pretrained(folder)
    (folder / "pdmd.json").write_text(json.dumps(SETTINGS, indent=1) + "\n")
    (folder / "README.md").write_text(CARD.format(kind=type(pipeline).__name__))
    write_sums(folder / SUMS)


def draw_curves(work: Path, path: Path) -> None:
    """The training curves in the work folder's logs, as one picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    known = (
        ("vae", "psnr_held_out", "autoencoder: held-out PSNR, dB"),
        ("transformer", "loss", "transformer: loss"),
    )
    curves = [curve for curve in known if (work / f"{curve[0]}.jsonl").exists()]
    figure, axes = pyplot.subplots(1, len(curves), figsize=(4 * len(curves), 3.2), layout="constrained", squeeze=False)
    for axis, (name, key, title) in zip(axes[0], curves, strict=True):
        rows = [json.loads(line) for line in (work / f"{name}.jsonl").read_text().splitlines()]
        rows = list({row["step"]: row for row in rows if key in row}.values())
        axis.plot([row["step"] for row in rows], [row[key] for row in rows], color="#20639b")
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def join(device: str) -> None:
    """Under torchrun, meet the other processes."""
    if "RANK" in os.environ:
        dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=timedelta(days=1))
    if device == "cuda":
        torch.cuda.set_device(parallel.rank())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/sprites-teacher"))
    parser.add_argument("--from", dest="start", type=Path, help="a pipeline to go on with; its autoencoder is kept")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the transformer")
    parser.add_argument("--compile", action="store_true", help="blocks by torch.compile, which needs a C++ compiler")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    join(args.device)
    earlier = WanPipeline.from_pretrained(args.start, torch_dtype=torch.float32) if args.start else None
    with parallel.in_turn():  # the first process trains the autoencoder
        vae = earlier.vae.to(args.device) if earlier else train_vae(args.work, args.device)
    pipeline = train_transformer(args.work, vae, args.device, args.steps, earlier, args.compile)
    if parallel.rank() > 0:
        return
    publish(pipeline, args.work / "pipeline")
    draw_curves(args.work, args.work / "curves.png")


if __name__ == "__main__":
    main()
