"""The embedded teachers' flow matching: one loop for text-to-video and for image-to-video."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from pdmd import parallel
from pdmd.flow import shift_time
from pdmd.sprites.training import Optimizers, log, resume, save
from pdmd.sprites.truth import WEIGHT, Heads, Truth

SHIFT = 3.0  # of the sampling grid, and of the noise levels in training
TOKENS = 16  # the longest prompt has 10 words and the end mark
LONG_PADDING = 0.03  # share of steps padded to 512 tokens, the stock pipeline's default
WARM_UP = 200
DECAY = 0.65  # share of the steps, the last ones, over which the learning rate falls to zero
EMA = 0.999


@dataclass(frozen=True)
class Batch:
    """Latents x0 (n, z, t, h, w), their prompts, and what they show; `kind` names the loss in the log. `given`
    (n, c, t, h, w) are channels that the transformer sees beside the noisy latents: a first frame and its mask."""

    kind: str
    x0: Tensor
    prompts: list[str]
    truth: Truth
    given: Tensor | None = None


def learning_rate(step: int, steps: int) -> float:
    """Warm-up, plateau, linear decay to zero, as a factor in [0, 1]."""
    return min(1.0, (step + 1) / WARM_UP, (1 - step / steps) / DECAY)


def embed(text_encoder: nn.Module, tokenizer: PreTrainedTokenizerFast, prompts: list[str], length: int) -> Tensor:
    """Prompt embeddings as WanPipeline makes them: zeros after the end mark, (n, length, d)."""
    tokens = tokenizer(prompts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
    device = next(text_encoder.parameters()).device
    mask = tokens.attention_mask.to(device)
    states = text_encoder(tokens.input_ids.to(device), mask).last_hidden_state * mask[..., None]
    return nn.functional.pad(states, (0, 0, 0, length - TOKENS))


def stratified_t(n: int, generator: torch.Generator) -> Tensor:
    """Noise levels (n,), logit-normal, every second one then shifted as the sampling grid is; one from each n-th of the
    distribution.

    What a clip shows as a whole, its objects' colour, place and number, is settled at t > 0.9: without the shift one
    sample in seventy lies there, and the frames of a clip do not agree. What shape they have is settled below 0.6:
    with the shift alone one in five lies there, and shapes are blurred.
    """
    u = torch.rand(n, generator=generator, device=generator.device)
    place = torch.arange(n, device=generator.device)
    t = torch.sigmoid(torch.special.ndtri((place + u) / n))
    return torch.where(place % 2 == 0, shift_time(t, SHIFT), t)


def flow_loss(nets: Any, cond: Tensor, batch: Batch, generator: torch.Generator) -> Tensor:
    """Mean squared error of the velocity eps - x0 at x_t = (1 - t) x0 + t eps."""
    x0 = batch.x0.to(generator.device)
    t = stratified_t(len(x0), generator).view(-1, 1, 1, 1, 1)
    eps = torch.randn(x0.shape, generator=generator, device=x0.device)
    x_t = (1 - t) * x0 + t * eps
    seen = x_t if batch.given is None else torch.cat([x_t, batch.given.to(x0.device)], dim=1)
    v = nets["transformer"](seen, 1000 * t.flatten(), cond, return_dict=False)[0]
    return (v - (eps - x0)).pow(2).mean()


def share(batch: Batch) -> Batch:
    """This process's part of a batch."""
    rows = slice(parallel.rank(), None, parallel.size())
    given = None if batch.given is None else batch.given[rows]
    return Batch(batch.kind, batch.x0[rows], batch.prompts[rows], batch.truth[rows], given)


def fit(
    work: Path,
    name: str,
    nets: nn.ModuleDict,
    tokenizer: PreTrainedTokenizerFast,
    batch_at: Callable[[int, np.random.Generator], Batch],
    steps: int,
    preview: Callable[[Any, Path], None],
    compiled: bool = False,
) -> Any:
    """Train a `transformer`, and its `text_encoder` unless that is frozen, and return their moving average.

    Resumes from `<work>/<name>.pt`, logs to `<name>.jsonl`; every thousand steps `preview` gets the average
    and the path of a picture. `compiled` has torch.compile compile the blocks. Under torchrun each process takes its
    share of every batch; the first one writes.
    """
    rank, together = parallel.rank(), parallel.size()
    device = next(nets.parameters()).device
    ema = torch.optim.swa_utils.AveragedModel(
        nets,
        multi_avg_fn=lambda old, new, n: torch._foreach_lerp_(old, new, 1 - min(EMA, (1 + int(n)) / (10 + int(n)))),
    )
    matrices = [p for p in nets.get_submodule("transformer.blocks").parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    heads = Heads(nets["transformer"]).to(device)
    others = [p for p in nets.parameters() if p.requires_grad and id(p) not in chosen]
    optimizers = Optimizers(matrices, [*others, *heads.parameters()])
    parts = dict(nets=nets, heads=heads, ema=ema, optimizers=optimizers)
    first = resume(work / f"{name}.pt", **parts)
    if compiled:
        for block in nets.get_submodule("transformer.blocks").children():
            block.compile(dynamic=False)
    start, losses = time.time(), defaultdict(list)
    for step in range(first, steps):
        rng = np.random.default_rng([5, step])
        generator = torch.Generator(device).manual_seed(step * together + rank)
        batch = share(batch_at(step, rng))
        length = 512 if rng.random() < LONG_PADDING else TOKENS
        cond = embed(nets["text_encoder"], tokenizer, batch.prompts, length)
        loss = flow_loss(nets, cond, batch, generator)
        asked = heads.loss(batch.truth)
        optimizers.step(loss + WEIGHT * asked, learning_rate(step, steps))
        ema.update_parameters(nets)
        if rank > 0:
            continue
        losses[batch.kind].append(float(loss.detach()))
        losses[f"heads_{batch.kind}"].append(float(asked.detach()))
        last = step == steps - 1
        if step % 100 == 99 or last:
            means = {kind: float(np.mean(values)) for kind, values in losses.items()}
            log(work / f"{name}.jsonl", step=step + 1, **means, minutes=(time.time() - start) / 60)
            losses.clear()
        if step % 250 == 249 or last:
            save(work / f"{name}.pt", step + 1, **parts)
        if step % 1000 == 999 or last:
            preview(ema.module, work / f"{name}-{step + 1:05d}.png")
    return ema.module
