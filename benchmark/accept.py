"""A new baseline takes the place of the old one, and says in its own result.json whose and why."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pdmd.errors import UserError
from pdmd.files import sha256, write_whole

from . import gates as gate_files
from . import result
from .compare import Comparison, compare
from .sides import BESIDE, locate, read_side


@dataclass(frozen=True)
class Accepted:
    """What was done: the baseline's file, what its history now says, and the comparison, where there was one."""

    path: Path
    entry: dict[str, Any]
    comparison: Comparison | None


def accept(
    baseline: Path,
    new: Path,
    reason: str,
    gates: Path | None = None,
    *,
    same_noise: bool = True,
    without_fidelity: bool = False,
) -> Accepted:
    """Make `new` the baseline: result.json and the CSV files beside it, result.json last. Its
    provenance["accepted"] keeps the old baseline's history and one entry more. They are compared as by `compare`.

    A new version of prompts or estimators cannot be compared with the old; that is written down, and no
    hindrance. Raises UserError where the new result is not whole, the suites differ or the baseline is no result.
    """
    if not reason.strip():
        raise UserError("a baseline is not replaced without a reason: --reason TEXT")
    if gates is not None:
        gate_files.read_gates(gates)  # a bad file is bad input, not a reason why two results do not compare
    target, side = locate(baseline), read_side(new)
    if target.resolve() == side.path.resolve():
        raise UserError(f"{target} is both the baseline and the new result")
    history: list[Any] = []
    replaced: dict[str, Any] | None = None
    comparison, verdict = None, "no baseline before"
    if target.exists():
        old = result.load(target)
        if old.suite != side.result.suite:
            raise UserError(
                f"the baseline {target} is of the suite {old.suite!r}, {side.path} of {side.result.suite!r}"
            )
        history = list(old.provenance.get("accepted", []))
        made = {key: old.provenance.get(key) for key in ("created", "git")}
        replaced = {"model": old.model, "sha256": sha256(target), **made}
        try:
            comparison = compare(target, side.path, gates, same_noise, without_fidelity)
            failed = ", ".join(comparison.failed)
            verdict = f"gates failed: {failed}" if failed else "gates passed"
        except UserError as error:
            verdict = str(error)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    entry = {"when": now, "reason": reason.strip(), "replaced": replaced, "comparison": verdict}
    provenance = dict(side.result.provenance) | {"accepted": [*history, entry]}
    for name in BESIDE:
        source, there = side.path.with_name(name), target.with_name(name)
        if source.is_file():
            write_whole(there, lambda part, source=source: shutil.copyfile(source, part))  # type: ignore[misc]
        else:
            there.unlink(missing_ok=True)
    result.save(replace(side.result, provenance=provenance), target)
    return Accepted(target, entry, comparison)
