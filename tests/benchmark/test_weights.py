"""Where weights are found, and that a damaged file of the hub's cache is noticed."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save_file

from pdmd.benchmark.features import weights
from pdmd.benchmark.features.dinov3 import RELEASED as DINOV3
from pdmd.benchmark.features.lpips import RELEASED as LPIPS
from pdmd.errors import UserError
from pdmd.files import sha256


def hub_cache(root: Path, repository: str, content: dict[str, torch.Tensor]) -> Path:
    """A file as huggingface_hub caches it: a blob named by its sha256, and a link from the snapshot."""
    folder = root / f"models--{repository.replace('/', '--')}"
    for part in ("blobs", "refs", "snapshots/0123"):
        (folder / part).mkdir(parents=True)
    (folder / "refs" / "main").write_text("0123")
    save_file(content, folder / "new")
    blob = folder / "blobs" / sha256(folder / "new")
    (folder / "new").rename(blob)
    (folder / "snapshots/0123/model.safetensors").symlink_to(blob)
    return folder / "snapshots/0123/model.safetensors"


def test_what_is_given_comes_before_the_caches(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    assert [weights.find(name, {}) for name in weights.SOURCES] == [None, None, None]
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    for name in ("raft", "lpips_trunk"):
        file = folder / str(weights.SOURCES[name].torch_file)
        file.touch()
        assert weights.find(name, {}) == file
        assert weights.find(name, {name: Path("mine.pth")}) == Path("mine.pth")
    theirs = hub_cache(tmp_path / "hf", "facebook/dinov3-vitl16-pretrain-lvd1689m", {"a": torch.zeros(3)})
    assert weights.find("dinov3", {}) == theirs
    timms = hub_cache(tmp_path / "hf", "timm/vit_large_patch16_dinov3.lvd1689m", {"a": torch.zeros(3)})
    assert weights.find("dinov3", {}) == timms


def test_a_cached_file_must_be_what_the_cache_says(tmp_path) -> None:
    path = hub_cache(tmp_path, "timm/x", {"a": torch.arange(1000.0)})
    assert torch.equal(weights.read(path, "X", "an X").tensors["a"], torch.arange(1000.0))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.resolve().write_bytes(content)
    with pytest.raises(UserError, match=r"is damaged .* delete it and fetch it again"):
        weights.read(path, "X", "an X")


def test_a_folder_holds_one_file_of_weights(tmp_path) -> None:
    with pytest.raises(UserError, match="holds 0 weights files"):
        weights.read(tmp_path, "X", "an X")
    save_file({"a": torch.zeros(3)}, tmp_path / "one.safetensors")
    assert weights.read(tmp_path, "X", "an X").path.name == "one.safetensors"
    torch.save({"b": torch.zeros(3)}, tmp_path / "two.pth")
    with pytest.raises(UserError, match="holds 2 weights files, not one; give an X"):
        weights.read(tmp_path, "X", "an X")
    save_file({"c": torch.zeros(3)}, tmp_path / "model.safetensors")
    assert set(weights.read(tmp_path, "X", "an X").tensors) == {"c"}


def test_the_command_fetches_what_is_looked_for() -> None:
    for name, source in weights.SOURCES.items():
        command = shlex.split(weights.fetch_command(name))
        if source.torch_file:
            compile(command[2], name, "exec")
            assert f"/models/{source.torch_file}'" in command[2]
        else:
            assert command == ["hf", "download", source.repositories[0], weights.HUB_FILE]
    trunk = str(weights.SOURCES["lpips_trunk"].torch_file)
    assert LPIPS[trunk.removesuffix(".pth")[-8:]] == "alex"
    assert all(len(start) == 8 for start in (*LPIPS, *DINOV3))


@pytest.fixture
def released(tmp_path, monkeypatch) -> Path:
    """A server's folder in place of torch's, with a trunk whose name promises its hash; empty caches."""
    folder = tmp_path / "server"
    folder.mkdir()
    torch.save({"a": torch.arange(3.0)}, folder / "new")
    name = f"alexnet-owt-{sha256(folder / 'new')[:8]}.pth"
    (folder / "new").rename(folder / name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(weights, "TORCH_HUB_URL", folder.as_uri() + "/")
    trunk = dataclasses.replace(weights.SOURCES["lpips_trunk"], torch_file=name)
    monkeypatch.setattr(weights, "SOURCES", weights.SOURCES | {"lpips_trunk": trunk})
    return folder / name


def test_what_is_found_nowhere_is_fetched_once_into_its_librarys_cache(released, tmp_path) -> None:
    path = weights.fetch("lpips_trunk", {})
    assert path == tmp_path / "torch" / "hub" / "checkpoints" / released.name
    assert weights.find("lpips_trunk", {}) == path
    assert sha256(path) == sha256(released)
    released.unlink()
    assert weights.fetch("lpips_trunk", {}) == path  # it is there by now
    assert weights.fetch("raft", {"raft": tmp_path / "mine.pth"}) == tmp_path / "mine.pth"


def test_what_cannot_be_fetched_is_one_line_and_leaves_nothing(released, tmp_path) -> None:
    released.write_bytes(released.read_bytes()[:-1])
    for name, reason in (("lpips_trunk", "invalid hash value"), ("raft", "No such file"), ("dinov3", "on the Hub")):
        with pytest.raises(UserError, match=rf"--fetch: cannot fetch .*{reason}.*--weights {name}=FILE"):
            weights.fetch(name, {})
        assert weights.find(name, {}) is None
    assert not [path for path in (tmp_path / "torch").rglob("*") if path.is_file()]


def test_an_unknown_network_is_one_clear_line() -> None:
    with pytest.raises(UserError, match="did you mean 'dinov3'"):
        weights.check_names({"dinov2": Path("x")})
