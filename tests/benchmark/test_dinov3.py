"""DINOv3: timm and transformers agree on copied weights, all three formats load, the preprocessing is Meta's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision.transforms import v2
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from pdmd.benchmark.features import dinov3
from pdmd.benchmark.features.dinov3 import Dinov3, preprocess, to_timm
from pdmd.errors import UserError


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """A ViT-S under timm's names, at random, with biases and layer scales large enough that every block counts."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = timm.create_model("vit_small_patch16_dinov3_qkvb", num_classes=0).state_dict()
    made = {}
    for name, t in shapes.items():
        made[name] = 0.04 * torch.randn(t.shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            made[name] += 1
        if "gamma" in name:
            made[name] += 0.3
    return made


@pytest.fixture(scope="module")
def weights(state, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("dinov3") / "model.safetensors"
    save_file(state, path)
    return path


@pytest.fixture(scope="module")
def encoder(weights) -> Dinov3:
    return Dinov3(weights)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 40, 64, 3), dtype=np.uint8)


def hub_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """timm's names -> transformers', written from the modules of modeling_dinov3_vit.py."""
    leaves = {
        "attn.proj": "attention.o_proj",
        "mlp.fc1": "mlp.up_proj",
        "mlp.fc2": "mlp.down_proj",
        "norm1": "norm1",
        "norm2": "norm2",
    }
    named = {
        "embeddings.cls_token": state["cls_token"],
        "embeddings.mask_token": torch.zeros_like(state["cls_token"]),
        "embeddings.register_tokens": state["reg_token"],
        "embeddings.patch_embeddings.weight": state["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.bias": state["patch_embed.proj.bias"],
        "norm.weight": state["norm.weight"],
        "norm.bias": state["norm.bias"],
    }
    for i in range(12):
        ours, theirs = f"blocks.{i}.", f"model.layer.{i}."
        for a, b in leaves.items():
            named |= {f"{theirs}{b}.{end}": state[f"{ours}{a}.{end}"] for end in ("weight", "bias")}
        for k in (1, 2):
            named[f"{theirs}layer_scale{k}.lambda1"] = state[f"{ours}gamma_{k}"]
        for part, weight in zip("qkv", state[f"{ours}attn.qkv.weight"].chunk(3), strict=True):
            named[f"{theirs}attention.{part}_proj.weight"] = weight.contiguous()
        for part in "qv":
            named[f"{theirs}attention.{part}_proj.bias"] = state[f"{ours}attn.{part}_bias"]
    return named


def meta_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """timm's names -> those of Meta's own files, written from dinov3/models and dinov3/layers."""
    named = {"mask_token": torch.zeros(1, 384), "rope_embed.periods": torch.ones(16, dtype=torch.bfloat16)}
    for name, t in state.items():
        if name.endswith("q_bias"):
            keys = torch.full_like(t, float("nan"))  # as their masked bias is stored
            named[name.replace("q_bias", "qkv.bias")] = torch.cat([t, keys, state[name.replace("q_bias", "v_bias")]])
            named[name.replace("q_bias", "qkv.bias_mask")] = torch.zeros(3 * len(t))
        elif not name.endswith("v_bias"):
            name = name.replace("reg_token", "storage_tokens")
            named[name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")] = t
    return named


def test_timm_and_transformers_agree(state, encoder, images, parity) -> None:
    with torch.random.fork_rng(devices=[]):
        reference = DINOv3ViTModel(DINOv3ViTConfig(num_register_tokens=4)).eval()
    reference.load_state_dict(hub_names(state))
    with torch.no_grad():
        pooled = reference(preprocess(images)).pooler_output
    expected = torch.nn.functional.normalize(pooled, dim=-1).numpy()
    found = encoder.embed(images)
    assert found.dtype == np.float32
    parity("DINOv3 embeddings, of length 1: timm, transformers", found, expected, 1e-4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-6)
    assert (found[0] * found[1]).sum() < 0.999  # the images are told apart


def test_the_three_formats_are_one_network(state, tmp_path) -> None:
    with torch.random.fork_rng(devices=[]):
        hub = DINOv3ViTModel(DINOv3ViTConfig(num_register_tokens=4))
    hub.load_state_dict(hub_names(state))
    hub.save_pretrained(tmp_path / "hub")
    torch.save(meta_names(state), tmp_path / "meta.pth")
    for path in (tmp_path / "hub", tmp_path / "meta.pth"):
        net = Dinov3(path).net.state_dict()
        assert set(net) == set(state)
        assert all(torch.equal(net[name], state[name]) for name in state), path
    old = {name.removeprefix("model."): t for name, t in hub_names(state).items()}  # as facebook's files have them
    assert all(torch.equal(t, state[name]) for name, t in to_timm(old).items())


def test_it_is_the_class_token_in_eval_mode(encoder, images) -> None:
    assert not any(module.training for module in encoder.net.modules())
    with torch.no_grad():
        tokens = encoder.net.forward_features(preprocess(images[:1]))
    first = torch.nn.functional.normalize(tokens[:, 0], dim=-1).numpy()
    np.testing.assert_allclose(encoder.embed(images[:1]), first, atol=1e-6)


def test_batch_size_changes_nothing(encoder, images, monkeypatch) -> None:
    together = encoder.embed(images)
    monkeypatch.setattr(dinov3, "BATCH", 1)
    np.testing.assert_allclose(encoder.embed(images), together, atol=1e-6)


@pytest.mark.parametrize("size", [(300, 520), (64, 64)])
def test_the_preprocessing_is_that_of_metas_readme(size: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize((256, 256), antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        ]
    )
    assert torch.equal(preprocess(image[None])[0], transform(image))
    with pytest.raises(ValueError, match="expected uint8"):
        preprocess(image[None] / 255)


def test_files_without_biases_load_too(state, tmp_path) -> None:
    save_file({k: v for k, v in state.items() if not k.endswith("_bias")}, tmp_path / "plain.safetensors")
    assert "blocks.0.attn.q_bias" not in Dinov3(tmp_path / "plain.safetensors").net.state_dict()


def test_only_known_weights_carry_their_name(encoder, monkeypatch) -> None:
    assert f"ViT-S/16 weights {encoder.digest[:8]}" in encoder.label(64, 64)
    assert dinov3.PREPROCESSING in encoder.label(64, 64)
    monkeypatch.setitem(dinov3.RELEASED, encoder.digest[:8], "large")  # the hash of another size's file
    assert "LVD-1689M" not in encoder.label(64, 64)
    monkeypatch.setitem(dinov3.RELEASED, encoder.digest[:8], "small")
    assert "ViT-S/16 LVD-1689M" in encoder.label(64, 64)
    assert not encoder.comparable()  # ViT-L is the metric's default


def test_bad_weights_are_one_clear_line(state, weights, tmp_path) -> None:
    def says(name: str, content: object) -> str:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, dict):
            torch.save(content, path)
        with pytest.raises(UserError) as caught:
            Dinov3(path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    half = {k: v for k, v in state.items() if not k.startswith(("blocks.6.", "blocks.7."))}
    keyless = {k: v for k, v in hub_names(state).items() if "k_proj" not in k}
    assert "no file" in says("absent.pth", None)
    assert "does not hold DINOv3" in says("short.safetensors", weights.read_bytes()[:1_000_000])
    assert "10 blocks of width 384 are no ViT-S, B or L" in says("half.pth", half)
    assert "0 blocks of width 0" in says("other.pth", {"features.0.weight": torch.zeros(64, 3, 11, 11)})
    assert "it has no norm.bias" in says("lacking.pth", {k: v for k, v in state.items() if k != "norm.bias"})
    assert "unknown tensor local_cls_norm" in says("sat.pth", state | {"local_cls_norm.weight": torch.ones(384)})
    assert "has shape" in says("shape.pth", state | {"reg_token": torch.zeros(1, 5, 384)})
    assert "does not hold DINOv3" in says("keyless.pth", keyless)
    assert "damaged" in says("dinov3_vits16_pretrain_lvd1689m-08c60483.pth", state)
