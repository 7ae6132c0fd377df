"""README.md of the tables' folder: every ordering that was judged, on one page, from the tables' JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pdmd.files import parse_json, write_text

from ..report import grid

TEXT = """# The paper's claims on the embedded world

`pdmd reproduce`; each table says by which command and commit it was made, of which seeds and how many prompts.

"""


def summary(out: Path) -> Path:
    """Write it, and return its path."""
    rows, links = [], []
    for path in sorted(out.glob("*.json")):
        content = parse_json(path.read_bytes())
        if "title" not in content:
            continue
        links.append(f"- [{content['title']}]({path.stem}.md)")
        for part, one in judged(content):
            p = "–" if one["p"] is None else f"{one['p']:.3g}"
            rows.append((path.stem, part, one["ordering"], one["on"], p, f"**{one['verdict']}**"))
        links += [f"  - {title}: {reason}" for title, reason in content.get("missing", {}).items()]
    target = out / "README.md"
    write_text(target, TEXT + "\n".join([*links, "", grid(("table", "part", "ordering", "on", "p", ""), rows)]) + "\n")
    return target


def judged(content: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """What a table judged: its part, and ordering, on, p, verdict."""
    return [
        *((part["title"], one) for part in content.get("parts", ()) for one in part["orderings"]),
        *((one.get("part", ""), one) for one in content.get("judged", ())),
    ]
