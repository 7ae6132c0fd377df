"""Train the embedded teacher from nothing.

    python -m pdmd.sprites.pretrain --work runs/sprites-teacher
    python -m pdmd.sprites.pretrain --work runs/longer --from pdmd/sprites/teacher

Four stages (autoencoder, latents, transformer, decoder once more), each resumable from its last checkpoint
in the work folder; the finished pipeline is written to `<work>/pipeline` in the diffusers format.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from pdmd.sprites import grammar, world
from pdmd.sprites.autoencoder import polish_decoder, train_vae
from pdmd.sprites.training import Optimizers, log, resume, save, to_model

TRANSFORMER_CONFIG = dict(
    patch_size=(1, 2, 2),
    num_attention_heads=4,
    attention_head_dim=32,
    in_channels=12,
    out_channels=12,
    text_dim=64,
    freq_dim=64,
    ffn_dim=512,
    num_layers=6,
    rope_max_seq_len=64,
)
TEXT_CONFIG = dict(d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, dropout_rate=0.0)
TOKENS = 16  # the longest prompt has 10 words and the end mark
SHIFT = 3.0  # of the sampling grid


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


LATENTS = 16000
CHUNK = 1000
ENCODED_AT_ONCE = 50


@torch.no_grad()
def encode_latents(work: Path, vae: AutoencoderKLWan, device: str) -> tuple[torch.Tensor, list[dict[str, str | None]]]:
    """Normalised latents (n, z, t, h, w) of LATENTS scenes, float16, and their factors."""
    folder = work / "latents"
    folder.mkdir(exist_ok=True)
    chunks, factors = [], []
    for c in range(LATENTS // CHUNK):
        scenes = [world.sample_scene(np.random.default_rng([4, c, i])) for i in range(CHUNK)]
        factors += [dict(scene.factors) for scene in scenes]
        path = folder / f"{c:03d}.pt"
        if not path.exists():
            means = []
            for i in range(0, CHUNK, ENCODED_AT_ONCE):
                x = to_model(np.stack([world.render(scene) for scene in scenes[i : i + ENCODED_AT_ONCE]])).to(device)
                means.append(vae.encode(x).latent_dist.mean.cpu())
            torch.save(torch.cat(means), path.with_suffix(".tmp"))
            path.with_suffix(".tmp").rename(path)
            print(f"latents {c + 1}/{LATENTS // CHUNK}", flush=True)
        chunks.append(torch.load(path, weights_only=True))
    latents = torch.cat(chunks)
    if not any(vae.config.latents_mean):  # an earlier pipeline's transformer knows its own normalisation
        vae.register_to_config(
            latents_mean=latents.mean((0, 2, 3, 4)).tolist(), latents_std=latents.std((0, 2, 3, 4)).tolist()
        )
    mean, std = torch.tensor(vae.config.latents_mean), torch.tensor(vae.config.latents_std)
    return ((latents - mean.view(1, -1, 1, 1, 1)) / std.view(1, -1, 1, 1, 1)).half(), factors


STEPS = 16000
IMAGES_FIRST = 2000  # steps on single frames alone: what things look like costs a fifth of what clips cost
IMAGE_EVERY = 4  # after them, every fourth step trains on single frames
CLIP_BATCH, IMAGE_BATCH = 64, 192
LONG_PADDING = 0.03  # share of steps padded to 512 tokens, the stock pipeline's default
WARM_UP = 200
DECAY = 0.3  # share of the steps, the last ones, over which the learning rate falls to zero
EMA = 0.999
PREVIEW_CLIPS, PREVIEW_STEPS = 24, 40


def learning_rate(step: int) -> float:
    """Warm-up, plateau, linear decay to zero, as a factor in [0, 1]."""
    return min(1.0, (step + 1) / WARM_UP, (1 - step / STEPS) / DECAY)


def embed(
    text_encoder: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, prompts: list[str], length: int
) -> torch.Tensor:
    """Prompt embeddings as WanPipeline makes them: zeros after the end mark, (n, length, d)."""
    tokens = tokenizer(prompts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
    device = next(text_encoder.parameters()).device
    mask = tokens.attention_mask.to(device)
    states = text_encoder(tokens.input_ids.to(device), mask).last_hidden_state * mask[..., None]
    return torch.nn.functional.pad(states, (0, 0, 0, length - TOKENS))


def stratified_t(n: int, generator: torch.Generator) -> torch.Tensor:
    """Logit-normal noise levels (n,), one from each n-th of the distribution."""
    u = torch.rand(n, generator=generator, device=generator.device)
    return torch.sigmoid(torch.special.ndtri((torch.arange(n, device=generator.device) + u) / n))


def train_transformer(
    work: Path, vae: AutoencoderKLWan, device: str, earlier: WanPipeline | None = None
) -> WanPipeline:
    """Flow matching on latents of clips and of single frames; the text encoder trains along. Both start from
    an `earlier` pipeline's where there is one."""
    latents, factors = encode_latents(work, vae, device)
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(**TRANSFORMER_CONFIG).to(device)
    text_encoder = UMT5EncoderModel(UMT5Config(vocab_size=len(tokenizer), **TEXT_CONFIG)).to(device)
    nets = torch.nn.ModuleDict(dict(transformer=transformer, text_encoder=text_encoder))
    if earlier:
        transformer.load_state_dict(earlier.transformer.state_dict())
        text_encoder.load_state_dict(earlier.text_encoder.state_dict())
    ema = torch.optim.swa_utils.AveragedModel(
        nets,
        multi_avg_fn=lambda old, new, n: torch._foreach_lerp_(old, new, 1 - min(EMA, (1 + int(n)) / (10 + int(n)))),
    )
    matrices = [p for p in transformer.blocks.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in nets.parameters() if id(p) not in chosen]
    optimizers = Optimizers(matrices, others)
    first = resume(work / "transformer.pt", nets=nets, ema=ema, optimizers=optimizers)
    start, losses = time.time(), defaultdict(list)
    for step in range(first, STEPS):
        rng = np.random.default_rng([5, step])
        generator = torch.Generator(device).manual_seed(step)
        image = (step < IMAGES_FIRST and not earlier) or step % IMAGE_EVERY == IMAGE_EVERY - 1
        batch = IMAGE_BATCH if image else CLIP_BATCH
        index = rng.integers(0, len(latents), batch)
        x0 = latents[index].to(device).float()
        shown = [factors[i] for i in index]
        if image:
            x0 = x0[:, :, :1]
            shown = [{name: f[name] for name in world.IMAGE_FACTORS} for f in shown]
        prompts = [grammar.training_prompt(rng, f) for f in shown]
        length = 512 if rng.random() < LONG_PADDING else TOKENS
        t = stratified_t(batch, generator).view(-1, 1, 1, 1, 1)
        eps = torch.randn(x0.shape, generator=generator, device=device)
        v = transformer(
            (1 - t) * x0 + t * eps,
            1000 * t.flatten(),
            embed(text_encoder, tokenizer, prompts, length),
            return_dict=False,
        )[0]
        loss = (v - (eps - x0)).pow(2).mean()
        optimizers.step(loss, learning_rate(step))
        ema.update_parameters(nets)
        losses["image_loss" if image else "loss"].append(float(loss.detach()))
        if step % 100 == 99 or step == STEPS - 1:
            means = {name: float(np.mean(values)) for name, values in losses.items()}
            log(work / "transformer.jsonl", step=step + 1, **means, minutes=(time.time() - start) / 60)
            losses.clear()
        if step % 250 == 249 or step == STEPS - 1:
            save(work / "transformer.pt", step + 1, nets=nets, ema=ema, optimizers=optimizers)
        if step % 1000 == 999 or step == STEPS - 1:
            pipeline = assemble(vae, tokenizer, ema.module)
            pipeline.save_pretrained(work / "pipeline")
            contact_sheet(pipeline, work / f"preview-{step + 1:05d}.png")
    return assemble(vae, tokenizer, ema.module)


def assemble(vae: AutoencoderKLWan, tokenizer: PreTrainedTokenizerFast, nets: Any) -> WanPipeline:
    """The pipeline of an autoencoder and a pair of `transformer` and `text_encoder`."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    return WanPipeline(tokenizer, nets["text_encoder"], vae, scheduler, nets["transformer"])


def contact_sheet(pipeline: WanPipeline, path: Path, guidance: float = 3.0) -> None:
    """PREVIEW_CLIPS clips, each of a prompt that no training used, five frames each, as one PNG."""
    rng = np.random.default_rng(6)
    prompts: list[str] = []
    while len(prompts) < PREVIEW_CLIPS:
        factors = world.sample_scene(rng).factors
        text = grammar.prompt({n: v for n, v in factors.items() if v is not None and rng.random() < 0.8})
        if grammar.held_out(text):
            prompts.append(text)
    pipeline.set_progress_bar_config(disable=True)
    video = pipeline(
        prompts,
        height=world.SIZE,
        width=world.SIZE,
        num_frames=world.FRAMES,
        num_inference_steps=PREVIEW_STEPS,
        guidance_scale=guidance,
        max_sequence_length=TOKENS,
        generator=[torch.Generator().manual_seed(i) for i in range(len(prompts))],
    ).frames
    strips = [np.concatenate(clip[[0, 4, 8, 12, 16]], axis=1) for clip in video]
    sheet = np.concatenate([np.concatenate(strips[i::2], axis=0) for i in range(2)], axis=1)
    import matplotlib.image

    matplotlib.image.imsave(path, np.clip(sheet, 0, 1))
    path.with_suffix(".txt").write_text("\n".join(prompts) + "\n")


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


def publish(pipeline: WanPipeline, folder: Path) -> None:
    """Write the pipeline in 16 bit, with its settings."""
    for part in (pipeline.transformer, pipeline.text_encoder, pipeline.vae):
        part.half()
    pipeline.save_pretrained(folder)
    (folder / "pdmd.json").write_text(json.dumps(SETTINGS, indent=1) + "\n")


def draw_curves(work: Path, path: Path) -> None:
    """The training curves in the work folder's logs, as one picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    known = (
        ("vae", "psnr_held_out", "autoencoder: held-out PSNR, dB"),
        ("transformer", "loss", "transformer: loss"),
        ("decoder", "psnr_held_out", "decoder, encoder frozen: held-out PSNR, dB"),
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/sprites-teacher"))
    parser.add_argument("--from", dest="start", type=Path, help="a pipeline to go on with; its autoencoder is kept")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    earlier = WanPipeline.from_pretrained(args.start, torch_dtype=torch.float32) if args.start else None
    vae = earlier.vae.to(args.device) if earlier else train_vae(args.work, args.device)
    pipeline = train_transformer(args.work, vae, args.device, earlier)
    polish_decoder(args.work, vae, args.device)
    publish(pipeline, args.work / "pipeline")
    draw_curves(args.work, args.work / "curves.png")


if __name__ == "__main__":
    main()
