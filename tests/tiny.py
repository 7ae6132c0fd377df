"""Pipelines of the real classes, of random weights, so small that they train in seconds."""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, UMT5Config, UMT5EncoderModel

from pdmd.sprites.pretrain import build_tokenizer
from pdmd.teachers import Pictured

SIZE = {"height": 32, "width": 32}
CLIP = {"domain": "sprites", "frames": 5, "fps": 8, "steps": 6, **SIZE}
IMAGE = {"domain": "sprites", "frames": 1, "fps": 1, "steps": 6, **SIZE}


def _settle(folder: Path, pipeline, **settings) -> Path:
    pipeline.save_pretrained(folder)
    (folder / "pdmd.json").write_text(json.dumps(settings))
    return folder


def wan_transformer(channels: int = 4, heads: int = 2, given: int = 0, **config) -> WanTransformer3DModel:
    return WanTransformer3DModel(
        num_attention_heads=heads, attention_head_dim=12, in_channels=channels + given, freq_dim=16, ffn_dim=32,
        num_layers=2, rope_max_seq_len=32, **{"out_channels": channels, "text_dim": 16, **config},
    )  # fmt: skip


def wan(
    folder: Path, channels: int = 4, z_dim: int = 4, boundary: float | None = None, heads: int = 2, **settings
) -> Path:
    """A Wan2.1; with a boundary, a Wan2.2 of two experts."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderKLWan(
            base_dim=8, z_dim=z_dim, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
            latents_mean=[0.1] * z_dim, latents_std=[2.0] * z_dim,
        )  # fmt: skip
        transformer = wan_transformer(channels, heads)
        tokenizer = build_tokenizer()
        text = UMT5EncoderModel(
            UMT5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        )
        more = {} if boundary is None else {"transformer_2": wan_transformer(channels), "boundary_ratio": boundary}
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipeline = WanPipeline(tokenizer, text, vae, scheduler, transformer, **more)
    return _settle(folder, pipeline, **{**CLIP, "guidance": 3.0, **settings})


def wan_i2v(folder: Path, boundary: float | None = 0.8, given: int = 8, config: dict | None = None, **settings) -> Path:
    """A Wan2.2-I2V of two experts, or of one; `given`: a mask of 4 channels and a latent of 4."""
    parts = WanPipeline.from_pretrained(wan(folder)).components
    with torch.random.fork_rng():
        torch.manual_seed(1)
        nets = [wan_transformer(given=given, **config or {}) for _ in range(1 if boundary is None else 2)]
    own = {"transformer": nets[0], "transformer_2": None if boundary is None else nets[1], "boundary_ratio": boundary}
    pipeline = WanImageToVideoPipeline(**parts | own)
    return _settle(folder, pipeline, **{**CLIP, "guidance": 3.0 if boundary is None else [4.0, 2.0], **settings})


def wan_two(folder: Path) -> Path:
    return wan(folder, boundary=0.8, guidance=[4.0, 2.0])


def qwen_image(
    folder: Path,
    z_dim: int = 4,
    channels: int = 16,
    made: int = 4,
    width: int = 16,
    guidance_embeds: bool = False,
    **settings,
) -> Path:
    """A Qwen-Image, its scheduler as the real one's but for the number of tokens that it is made for."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderKLQwenImage(
            base_dim=8, z_dim=z_dim, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
            latents_mean=[0.1] * z_dim, latents_std=[2.0] * z_dim,
        )  # fmt: skip
        transformer = QwenImageTransformer2DModel(
            in_channels=channels, out_channels=made, num_layers=2, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=width, axes_dims_rope=(8, 4, 4), guidance_embeds=guidance_embeds,
        )  # fmt: skip
        tokenizer = build_tokenizer()
        rope = {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"}
        text = Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(
                text_config=dict(
                    hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, rope_scaling=rope,
                    num_key_value_heads=2, vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=1, pad_token_id=0,
                ),
                vision_config=dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=16),
            )
        )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, base_image_seq_len=2, max_image_seq_len=16,
        shift_terminal=0.02,
    )  # fmt: skip
    pipeline = QwenImagePipeline(scheduler, vae, text, tokenizer, transformer)
    return _settle(folder, pipeline, **{**IMAGE, "guidance": 4.0, **settings})


#: The families under test. One more is one more builder here.
FAMILIES = {"wan2.1": wan, "wan2.2": wan_two, "qwen-image": qwen_image}


def pictured(text: str) -> Pictured:
    """A prompt with a first frame of its own, which families that need none pass over."""
    return Pictured(text, np.random.default_rng(len(text)).integers(0, 256, (32, 32, 3), np.uint8))
