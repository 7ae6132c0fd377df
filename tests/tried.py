"""What `nox -s torture` tried: written by the tests into $PDMD_TORTURE, and as a Markdown table by
`python tests/tried.py FILE ...`, with exit code 1 where a test failed, did not end, or was skipped."""

import json
import os
import sys
from collections import Counter
from pathlib import Path


def tell(test: str = "", **figures: float | str | dict[str, int]) -> None:
    """Append what was tried to the file $PDMD_TORTURE; `test`, if not the one that runs. `trials` is how often, `where`
    how many of them fell where."""
    if not test:
        file, *_, name = os.environ["PYTEST_CURRENT_TEST"].split("::")
        test = f"{Path(file).stem}: {name.rpartition(' ')[0]}"
    if path := os.environ.get("PDMD_TORTURE"):
        with Path(path).open("a", encoding="utf-8") as f:
            f.write(json.dumps({"test": test} | figures) + "\n")


def tests(lines: list[str]) -> dict[str, dict]:
    """What is known of each test. Of one that ran twice, the last time; of one that failed after it had passed, as its
    fixtures were taken down, that it failed."""
    rows: dict[str, dict] = {}
    for line in lines:
        row = json.loads(line)
        old = rows.pop(row["test"], {})
        again = "outcome" in old and row.get("when") != "teardown"
        rows[row["test"]] = row if again else old | row
    return rows


def table(rows: dict[str, dict]) -> str:
    """A row a fault: how often it was tried, how many of its tests lost something, their minutes, where it fell."""
    faults: dict[str, list[dict]] = {}
    for test, row in rows.items():
        faults.setdefault(str(row.get("fault", test)), []).append(row)
    text = ["| fault | trials | losses | minutes | where |", "|---|---|---|---|---|"]
    for fault, of in faults.items():
        trials = sum(int(row.get("trials", 1)) for row in of if row.get("outcome") != "skipped")
        losses = sum(row.get("outcome") not in ("passed", "skipped") for row in of)
        where: Counter[str] = Counter()
        for row in of:
            where.update(row.get("where", {}))
        fell = ", ".join(f"{place} {count}" for place, count in where.items())
        text.append(f"| {fault} | {trials:,} | {losses} | {_minutes(of):.1f} | {fell} |")
    return "\n".join([*text, f"\n{_minutes(list(rows.values())):.0f} minutes in all."])


def wanting(rows: dict[str, dict]) -> list[str]:
    """A line for each test that does not prove what it is there for."""
    ended = {test: row.get("outcome", "has not ended") for test, row in rows.items()}
    return [f"{test}: {how} {rows[test].get('reason', '')}".strip() for test, how in ended.items() if how != "passed"]


def _minutes(rows: list[dict]) -> float:
    return sum(float(row.get("seconds", 0)) for row in rows) / 60


if __name__ == "__main__":
    found = tests([line for file in sys.argv[1:] for line in Path(file).read_text(encoding="utf-8").splitlines()])
    print(table(found))
    if lost := wanting(found):
        sys.exit("\n".join(["", *lost]))
