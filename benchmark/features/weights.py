"""Where a network's weights are found, and reading them safely.

A file or folder that the user gives comes first (`--weights NAME=PATH`), then the cache into which the
network's own library fetches it. Only `fetch` downloads, which the user asks for (`--fetch`), so a benchmark
never waits for a connection that is not there: a network whose weights are absent is absent, and `fetch_command`
is the one command that gets them, through their own library, into that cache.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from pdmd.errors import UserError, first_line, suggest
from pdmd.files import sha256

TORCH_HUB_URL = "https://download.pytorch.org/models/"


@dataclass(frozen=True)
class Source:
    """The default weights of one network: a file of torch hub's cache, or of hub repositories (the first of
    them is the one to fetch), and which files are taken in their place."""

    what: str
    takes: str
    torch_file: str | None = None
    repositories: tuple[str, ...] = ()


#: The networks that `--weights` names.
SOURCES = {
    "raft": Source(
        "RAFT-large", "torchvision's raft_large_C_T_V1-22a6c225.pth or VBench's raft-things.pth",
        torch_file="raft_large_C_T_V1-22a6c225.pth",
    ),
    "dinov3": Source(
        "DINOv3 ViT-L/16",
        "a ViT-S, B or L of DINOv3 as timm, transformers or Meta save it, file or folder",
        repositories=("timm/vit_large_patch16_dinov3.lvd1689m", "facebook/dinov3-vitl16-pretrain-lvd1689m"),
    ),
    "lpips_trunk": Source(
        "AlexNet", "torchvision's alexnet-owt-7be5be79.pth, or vgg16-397923af.pth for LPIPS on VGG",
        torch_file="alexnet-owt-7be5be79.pth",
    ),
}  # fmt: skip
HUB_FILE = "model.safetensors"


@dataclass(frozen=True)
class Weights:
    """A file of weights as read: its path, the sha256 of its bytes, its tensors by name."""

    path: Path
    sha256: str
    tensors: dict[str, torch.Tensor]


def check_names(given: Mapping[str, Path]) -> None:
    """Raises UserError where weights are given for something that is no network of the benchmark."""
    for name in given:
        if name not in SOURCES:
            raise UserError(f"no network {name!r} takes weights: {suggest(name, SOURCES)}")


def find(name: str, given: Mapping[str, Path]) -> Path | None:
    """The weights of a network: those given, else those in the user's caches, else None."""
    return given.get(name) or _cached(SOURCES[name])


def fetch_command(name: str) -> str:
    """The one command by which a network's own library fetches its default weights into its cache."""
    source = SOURCES[name]
    if source.torch_file:
        call = f"load_state_dict_from_url('{TORCH_HUB_URL}{source.torch_file}', check_hash=True, weights_only=True)"
        return f'python -c "import torch; torch.hub.{call}"'
    return f"hf download {source.repositories[0]} {HUB_FILE}"


def fetch(name: str, given: Mapping[str, Path]) -> Path:
    """The weights of a network as `find` finds them; where it finds none its own library fetches the default ones into
    its cache. Raises UserError where that fails."""
    if path := find(name, given):
        return path
    source = SOURCES[name]
    try:
        if source.torch_file:
            url = TORCH_HUB_URL + source.torch_file
            torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
            return _hub_path(source.torch_file)
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(source.repositories[0], HUB_FILE))
    except Exception as error:  # whatever a library raises without a network, with a full disk, for another hash
        raise UserError(
            f"--fetch: cannot fetch the {source.what} weights ({first_line(error)[:200]}); give them by --weights "
            f"{name}=FILE, or leave out --fetch to measure without them"
        ) from None


def absence(name: str) -> str:
    """Why a metric of this network is missing, in words."""
    return f"no {SOURCES[name].what} weights were given or found in the caches"


def read(path: Path, what: str, takes: str) -> Weights:
    """Read the tensors of a .safetensors or .pth file, or of the one such file in a folder.

    Of a .pth nothing is unpickled but tensors. Raises UserError, in one line that ends on what the network
    `what` `takes`, for a file that is not there, damaged (by the hash that its name or the hub's cache
    promises), or no weights at all.
    """
    file = _file_of(path, what, takes)
    digest = sha256(file)
    promised = re.search(r"-([0-9a-f]{8})\.(pth|safetensors)$", file.name) or re.fullmatch(
        r"([0-9a-f]{64})", file.resolve().name
    )
    if promised and not digest.startswith(promised[1]):
        raise UserError(
            f"{what} weights: {file} is damaged (its sha256 starts {digest[:8]}, not {promised[1][:8]}); "
            "delete it and fetch it again"
        )
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors = load_file(file)
        else:
            tensors = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(tensors, dict) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
            raise ValueError("it is no dictionary of tensors")
    except Exception as error:  # whatever a damaged file makes a reader raise
        raise refused(file, what, takes, error) from None
    return Weights(file, digest, tensors)


def refused(path: Path, what: str, takes: str, error: Exception) -> UserError:
    """The one line for a file that does not hold the network."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return UserError(f"{what} weights: {path} does not hold {what} ({reason[:120]}); it takes {takes}")


def check(tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Raises ValueError where names or shapes are not exactly those expected."""
    for name, tensor in expected.items():
        if name not in tensors:
            raise ValueError(f"it has no {name}")
        if tensors[name].shape != tensor.shape:
            raise ValueError(f"{name} has shape {tuple(tensors[name].shape)}, not {tuple(tensor.shape)}")
    if extra := set(tensors) - set(expected):
        raise ValueError(f"unknown tensor {min(extra)}")


def _hub_path(file: str) -> Path:
    """Where torch hub caches a file of weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / file


def _cached(source: Source) -> Path | None:
    if source.torch_file:
        path = _hub_path(source.torch_file)
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    for repository in source.repositories:
        found = try_to_load_from_cache(repository, HUB_FILE)
        if isinstance(found, str):
            return Path(found)
    return None


def _file_of(path: Path, what: str, takes: str) -> Path:
    """The file itself, or the one weights file of a folder."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{what} weights: no file {path}; give {takes}")
    if (path / HUB_FILE).is_file():
        return path / HUB_FILE
    found = sorted(p for p in path.iterdir() if p.suffix in (".safetensors", ".pth", ".bin"))
    if len(found) != 1:
        raise UserError(f"{what} weights: folder {path} holds {len(found)} weights files, not one; give {takes}")
    return found[0]
