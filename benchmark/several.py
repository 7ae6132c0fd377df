"""Several results on the same prompts in one table and one page: `pdmd report`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from pdmd.errors import UserError
from pdmd.files import write_text

from .markup import relative_url
from .page import results_page
from .report import escape, note, table
from .sides import Side, read_side, refuse

FILES = ("report.md", "report.html")


def report(paths: Sequence[Path], out: Path) -> list[Path]:
    """Write report.md and report.html of these results (result.json or its folder) into `out`; returns their paths.

    Raises UserError for a result that is not whole, and for two that are not of the same suite and prompts, by the
    same estimators; their noise may differ.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; reports need a folder")
    sides = [read_side(path) for path in paths]
    for side in sides[1:]:
        refuse(sides[0], side, same_noise=False)
    named = labelled(sides)
    for name, text in zip(FILES, (markdown(named, out), results_page(named, out)), strict=True):
        write_text(out / name, text)
    return [out / name for name in FILES]


def labelled(sides: Sequence[Side]) -> dict[str, Side]:
    """Results by their model's name, with the folder where that is not enough to tell them apart."""
    times = Counter(side.name for side in sides)
    named = {side.name if times[side.name] == 1 else f"{side.name} ({side.path.parent})": side for side in sides}
    if len(named) < len(sides):
        raise UserError("the same result is given twice; give each once")
    return named


def markdown(sides: Mapping[str, Side], out: Path) -> str:
    """One table, and links to each one's own report."""
    results = [side.result for side in sides.values()]
    lines = [f"# {escape(results[0].suite)}", "", table(results, list(sides)), ""]
    lines += [f"In brackets, 95 % intervals over prompts. {note(results[0].suite)}", ""]
    for label, side in sides.items():
        lines.append(f"- [{escape(label)}]({relative_url(side.path.with_name('report.md'), out)})")
    return "\n".join(lines) + "\n"
