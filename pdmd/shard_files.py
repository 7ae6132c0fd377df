"""Checkpoints of networks that are shared out, by torch.distributed.checkpoint: each process writes and reads its own
share; any number of processes can go on from them.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import torch.distributed as dist

from pdmd.errors import UserError, first_line
from pdmd.files import SUMS, changed, sums
from pdmd.parallel import lost_peer, rank, size


def _content(state: Any, optimizers: bool) -> dict[str, Any]:
    """A State's tensors, by name, as torch.distributed.checkpoint takes them; optimisers that have made no step have
    none, and asking for them would count as one."""
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict

    content = {
        "experts": {str(k): get_model_state_dict(net) for k, net in enumerate(state.experts)},
        "fake": get_model_state_dict(state.fake.net),
        "average": state.average or {},
    }
    if optimizers:
        for name, trainee in (("expert_optimizer", state.expert), ("fake_optimizer", state.fake)):
            content[name] = get_optimizer_state_dict(trainee.net, trainee.optimizer)
    return content


def save(state: Any, folder: Path, advice: str) -> None:
    """Write a State as the new folder `folder`, by torch.distributed.checkpoint, each process its own share, with
    checksums; it is there whole or not at all. Raises UserError, in all processes, where one of them cannot write."""
    import torch.distributed.checkpoint as dcp

    part = folder.with_name(f".{folder.name}.part0")
    if rank() == 0:
        shutil.rmtree(part, ignore_errors=True)
    try:
        dcp.save(_content(state, bool(state.expert.optimizer.state)), checkpoint_id=part)
        own = [path.name for path in part.glob(f"__{rank()}_*")] + [".metadata"] * (rank() == 0)
        lines: list[Any] = [None] * size()
        dist.all_gather_object(lines, {name: sums(part, [name]) for name in own})
        if rank() == 0:
            listing = {name: line for of_one in lines for name, line in of_one.items()}
            (part / SUMS).write_text("".join(listing[name] for name in sorted(listing)))
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)
    except (dcp.api.CheckpointException, OSError) as error:
        raise UserError(f"cannot write {folder}: {_cause(error)}; {advice}") from None


def damaged(folder: Path) -> Path | None:
    """The first file of a folder of `save` that is not as it was written; None where all are."""
    try:
        return changed(folder / SUMS, *sorted(path.name for path in folder.iterdir() if path.name != SUMS))
    except (OSError, UnicodeDecodeError):
        return folder / SUMS


def load(state: Any, folder: Path) -> None:
    """Take on what `save` wrote, in one process or in any number of them; no code in it runs. Raises UserError where it
    is damaged or of another network."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import set_model_state_dict, set_optimizer_state_dict

    from pdmd.shard_reader import Planner, Reader

    try:
        kept = Reader(folder).read_metadata().state_dict_metadata
        content = _content(state, any(name.startswith("expert_optimizer.") for name in kept))
        nets = {"fake": content["fake"]} | {f"experts.{k}": net for k, net in content["experts"].items()}
        lost = next((f"{k}.{name}" for k, net in nets.items() for name in net if f"{k}.{name}" not in kept), None)
        if lost:
            raise UserError(f"the checkpoint does not fit this teacher: {folder} has no {lost}")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as it may be
            dcp.load(content, storage_reader=Reader(folder), planner=Planner(), no_dist=size() == 1)
    except (dcp.api.CheckpointException, OSError, ValueError, RuntimeError, EOFError) as error:
        if lost_peer(error):
            raise
        raise UserError(f"checkpoint {folder} is damaged or of another teacher: {_cause(error)}") from None
    for k, net in enumerate(state.experts):
        set_model_state_dict(net, content["experts"][str(k)])
    set_model_state_dict(state.fake.net, content["fake"])
    for name, trainee in (("expert_optimizer", state.expert), ("fake_optimizer", state.fake)):
        if name in content:
            set_optimizer_state_dict(trainee.net, trainee.optimizer, content[name])


def load_whole(state: Any, content: dict[str, Any]) -> None:
    """Take on, each process its share, what one process saved by itself (`pdmd.state.State.tensors`)."""
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        set_model_state_dict,
        set_optimizer_state_dict,
    )
    from torch.distributed.tensor import distribute_tensor

    options = StateDictOptions(full_state_dict=True)
    for net, saved in zip([*state.experts, state.fake.net], [*content["experts"], content["fake"]], strict=True):
        set_model_state_dict(net, saved, options=options)
    for trainee, saved in ((state.expert, content["expert"]), (state.fake, content["fake_optimizer"])):
        if not saved["state"]:
            continue  # it has made no step
        names = [name for name, _ in trainee.net.named_parameters()]  # one process saves them by their number
        groups = [{**group, "params": [names[i] for i in group["params"]]} for group in saved["param_groups"]]
        named: Any = {"state": {names[i]: tensors for i, tensors in saved["state"].items()}, "param_groups": groups}
        set_optimizer_state_dict(trainee.net, trainee.optimizer, named, options=options)
    for name, kept in (state.average or {}).items():
        kept.copy_(distribute_tensor(content["average"][name].to(kept.device), kept.device_mesh, kept.placements))


def _cause(error: BaseException) -> str:
    failures = getattr(error, "failures", None)
    return first_line(next(iter(failures.values()))[0] if failures else error)
