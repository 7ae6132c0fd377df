"""Reading a folder of torch.distributed.checkpoint without running what it may hold.

Its own reader unpickles `.metadata` and each entry that is no tensor, whatever they name; a checkpoint may come from
someone else. Here both are made of the classes that such a folder needs, and of nothing else.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import torch
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata
from torch.distributed.checkpoint.planner import ReadItem

from pdmd.errors import first_line

_METADATA, _FILES = Metadata.__module__, _StorageInfo.__module__


def _member(kind: type, name: str) -> _MEM_FORMAT_ENCODING:
    """As `getattr`, of an enum's class alone: so Pythons 3.11.0 to 3.11.3 write its members."""
    if kind is not _MEM_FORMAT_ENCODING:
        raise ValueError("it names builtins.getattr, which is no part of a checkpoint")
    return _MEM_FORMAT_ENCODING[name]


#: All that a `.metadata` names, besides torch's dtypes; a path in it, where it was written, stays a name.
ALLOWED: dict[tuple[str, str], Any] = {
    **{
        (_METADATA, kind): getattr(torch.distributed.checkpoint.metadata, kind)
        for kind in (
            *("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties", "_MEM_FORMAT_ENCODING"),
            *("TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata"),
        )
    },
    (_FILES, "_StorageInfo"): _StorageInfo,
    ("torch", "Size"): torch.Size,
    ("builtins", "getattr"): _member,
    ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
    ("pathlib", "PosixPath"): PurePosixPath,
    ("pathlib._local", "PosixPath"): PurePosixPath,  # Python 3.13
}


class _Unpickler(pickle._Unpickler):
    """Makes what ALLOWED has. The one in Python: the one in C takes as much memory as a number in the file says."""

    # Without the one operation that takes memory likewise.
    dispatch: ClassVar = {op: do for op, do in pickle._Unpickler.dispatch.items() if op != pickle.BYTEARRAY8[0]}

    def find_class(self, module: str, name: str) -> Any:
        kind = getattr(torch, name, None) if module == "torch" else None
        if isinstance(kind, torch.dtype):
            return kind
        if (module, name) not in ALLOWED:
            raise ValueError(f"it names {module}.{name}, which is no part of a checkpoint")
        return ALLOWED[module, name]


class Reader(FileSystemReader):
    """A folder's reader. `read_metadata` raises ValueError, in one line, for what is none."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        content = (Path(self.path) / ".metadata").read_bytes()
        try:
            metadata = _Unpickler(io.BytesIO(content)).load()
            _check(metadata)
            metadata.storage_meta.load_id = self.load_id
        except Exception as error:  # whatever a damaged pickle raises
            raise ValueError(f".metadata cannot be read: {first_line(error)}") from None
        return metadata


class Planner(DefaultLoadPlanner):
    """Takes numbers, texts and tensors from entries that are no tensors. Partial: a parameter that no loss depends on
    has no optimiser state."""

    def __init__(self) -> None:
        super().__init__(allow_partial_load=True)

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        try:
            entry = torch.load(value, weights_only=True)
        except pickle.UnpicklingError:  # its text advises to let it run
            raise ValueError(f"{read_item.storage_index.fqn} is more than numbers and tensors") from None
        own = io.BytesIO()
        torch.save(entry, own)
        own.seek(0)
        super().load_bytes(read_item, own)  # which unpickles anything, and so gets what was written here


def _check(metadata: Any) -> None:
    """Raises ValueError, TypeError or AttributeError where it is no metadata or names files elsewhere."""
    if type(metadata) is not Metadata or any(type(name) is not str for name in metadata.state_dict_metadata):
        raise ValueError("it is no checkpoint's")
    for place in metadata.storage_data.values():
        if PurePosixPath(place.relative_path).name != place.relative_path:
            raise ValueError(f"it names the file {place.relative_path!r}, which is not beside it")
