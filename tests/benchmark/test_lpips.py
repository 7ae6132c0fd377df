"""LPIPS: equal to the lpips package on every pair, one trunk pass an image, weights refused in one line."""

from __future__ import annotations

import functools
import itertools
import warnings
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
import torchvision

from pdmd.benchmark.features import lpips as ours
from pdmd.benchmark.features.lpips import Lpips


def random_trunk(name: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """torchvision's state dict without the classifier, at random: the arithmetic is the real one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        shapes = getattr(torchvision.models, name)().features.state_dict()
    return {
        f"features.{key}": torch.randn(t.shape, generator=generator) * (2 / max(1, t[0].numel())) ** 0.5
        for key, t in shapes.items()
    }


@pytest.fixture(scope="module")
def alex(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("alex") / "alex.pth"
    torch.save(random_trunk("alexnet") | {"classifier.1.weight": torch.zeros(2, 3)}, path)
    return path


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Four smooth colour images and one that is black and white, uint8 (5, 72, 64, 3)."""
    rng = np.random.default_rng(0)
    small = torch.from_numpy(rng.integers(0, 256, (4, 3, 9, 8)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(small, size=(72, 64), mode="bicubic").clamp(0, 255).round()
    flat = np.zeros((1, 72, 64, 3), np.uint8)
    flat[:, :, 32:] = 255
    return np.concatenate([smooth.permute(0, 2, 3, 1).numpy().astype(np.uint8), flat])


def package(net: str, trunk: dict[str, torch.Tensor]) -> lpips.LPIPS:
    """The package's own network with the trunk's convolutions copied in, in their order."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        made = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    convolutions = [m for m in made.net.modules() if isinstance(m, torch.nn.Conv2d)]
    tensors = list(trunk.values())
    for convolution, weight, bias in zip(convolutions, tensors[::2], tensors[1::2], strict=True):
        convolution.weight.data, convolution.bias.data = weight, bias
    return made.requires_grad_(False)


@pytest.mark.parametrize(("net", "name"), [("alex", "alexnet"), ("vgg", "vgg16")])
def test_every_pair_equals_the_package(net: str, name: str, images, tmp_path, monkeypatch, parity) -> None:
    plain = functools.partial(torchvision.models.vgg16, init_weights=False)  # seconds faster to build
    monkeypatch.setattr(lpips.pretrained_networks.tv, "vgg16", plain)
    images = images if net == "alex" else images[1:4]
    trunk = random_trunk(name)
    torch.save(trunk, tmp_path / "trunk.pth")
    reference, x = package(net, trunk), torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    measured = Lpips(tmp_path / "trunk.pth")
    assert measured.trunk == net
    found = measured.distances(images)
    pairs = list(itertools.combinations(range(len(images)), 2))
    expected = [reference(x[i : i + 1], x[j : j + 1]).item() for i, j in pairs]
    ours = [found[pair] for pair in pairs]
    parity(f"LPIPS of {len(pairs)} pairs: the lpips package, {net}", ours, expected, 1e-6)
    assert min(ours) > 0.01
    np.testing.assert_array_equal(found, found.T)
    assert not found.diagonal().any()


def test_the_trunk_sees_each_image_once_and_in_the_right_range(alex, images) -> None:
    measured, seen, passes = Lpips(alex), [], []
    measured.net.scaling_layer.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    measured.net.net.slice1.register_forward_pre_hook(lambda _, x: passes.append(len(x[0])))
    measured.distances(images)
    assert sum(passes) == len(images)
    assert (seen[0].min().item(), seen[0].max().item()) == (-1, 1)


def test_company_changes_nothing(alex, images) -> None:
    measured = Lpips(alex)
    all_of_them = measured.distances(images)
    # Not bit for bit: a batch of another size is shared out to the cores in another way.
    np.testing.assert_allclose(measured.distances(images[1:3]), all_of_them[1:3, 1:3], rtol=0, atol=1e-7)
    np.testing.assert_allclose(measured.distances(images[::-1]), all_of_them[::-1, ::-1], rtol=0, atol=1e-7)


def test_other_ranges_and_tiny_images_are_refused(alex, images) -> None:
    measured = Lpips(alex)
    for wrong in (images / 255, images.astype(np.float32) / 127.5 - 1, images.astype(np.int64), images[0]):
        with pytest.raises(ValueError, match="expected uint8 images"):
            measured.distances(wrong)
    with pytest.raises(ValueError, match="at least 32 pixels a side, the images are 64x31"):
        measured.distances(images[:, :31])


def test_nothing_random_passes_for_the_real_thing(alex, monkeypatch) -> None:
    measured = Lpips(alex)
    assert not measured.comparable()
    assert "ImageNet" not in measured.label(72, 64)
    assert f"weights {measured.digest[:8]}" in measured.label(72, 64)
    assert measured.label(72, 64).endswith("at 64x72")
    monkeypatch.setitem(ours.RELEASED, measured.digest[:8], "alex")  # as if this were torchvision's file
    assert measured.comparable()
    assert "AlexNet (ImageNet)" in measured.label(72, 64)


def test_bad_trunks_are_one_clear_line(alex, refused) -> None:
    state = random_trunk("alexnet")

    def says(name: str, content: object) -> str:
        said = refused(Lpips, name, content)
        assert "vgg16-397923af.pth" in said or "fetch it again" in said
        return said

    assert "no file" in says("absent.pth", None)
    assert "does not hold" in says("short.pth", alex.read_bytes()[:50_000])
    assert "does not hold" in says("object.pth", {"a": Path("x")})  # more than tensors: not unpickled
    assert "it is no dictionary of tensors" in says("list.pth", [torch.zeros(3)])
    assert "it has no features.0.weight" in says("resnet.pth", {"conv1.weight": torch.zeros(64, 3, 7, 7)})
    assert "it has no features.10.bias" in says("less.pth", {k: v for k, v in state.items() if "10.bias" not in k})
    assert "unknown tensor" in says("vgg19.pth", random_trunk("vgg16") | {"features.30.weight": torch.zeros(1)})
    assert "has shape" in says("shape.pth", state | {"features.3.bias": torch.zeros(3)})
    assert "damaged" in says("alexnet-owt-7be5be79.pth", state)
