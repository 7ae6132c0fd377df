"""What `nox -s torture` tried: written by the tests into $PDMD_TORTURE, and as a Markdown table by
`python tests/tried.py FILE ...`."""

import json
import os
import sys
from pathlib import Path


def tell(test: str = "", **figures: float | str) -> None:
    """Append what was tried to the file $PDMD_TORTURE; `test`, if not the one that runs."""
    test = test or os.environ.get("PYTEST_CURRENT_TEST", "").split("::")[-1].rpartition(" ")[0]
    if path := os.environ.get("PDMD_TORTURE"):
        with Path(path).open("a", encoding="utf-8") as f:
            f.write(json.dumps({"test": test} | figures) + "\n")


def table(lines: list[str]) -> str:
    """A row a test: what it tried, how it ended, its minutes. Of a test that ran twice, the last time."""
    rows: dict[str, dict] = {}
    for line in lines:
        row = json.loads(line)
        old = rows.pop(row["test"], {})
        rows[row["test"]] = row if "outcome" in old else old | row
    text = ["| test | tried | ended | minutes |", "|---|---|---|---|"]
    for test, row in rows.items():
        tried = [f"{value:.4g} {key}" for key, value in row.items() if key not in ("test", "outcome", "seconds")]
        text.append(f"| {test} | {', '.join(tried)} | {row.get('outcome', 'not')} | {row.get('seconds', 0) / 60:.1f} |")
    return "\n".join([*text, f"\n{sum(row.get('seconds', 0) for row in rows.values()) / 60:.0f} minutes in all."])


if __name__ == "__main__":
    print(table([line for file in sys.argv[1:] for line in Path(file).read_text(encoding="utf-8").splitlines()]))
