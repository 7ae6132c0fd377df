"""Writes the table of how far the metrics are from their reference implementations, as the parity tests find it.

python tests/parity_table.py    # about a minute; reports/parity. Seeded random weights, nothing is downloaded
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

TESTS = Path(__file__).parent / "benchmark"
FILES = ("test_lpips.py", "test_dinov3.py", "test_flow_features.py", "test_vbench.py")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        files = [str(TESTS / name) for name in FILES]
        code = pytest.main(
            [
                "-q",
                "-o",
                "junit_family=xunit1",
                "-k",
                "equal or agree or formats or vbenchs",
                f"--junitxml={report}",
                *files,
            ]
        )
        rows = [p.attrib["value"] for p in ElementTree.parse(report).iter("property") if p.attrib["name"] == "parity"]
    print("| ours against | largest difference | allowed |", "|---|---|---|", sep="\n")
    for row in rows:
        print(f"| {row} |")
    sys.exit(int(code))


if __name__ == "__main__":
    main()
