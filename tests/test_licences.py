"""docs/licences.md is what the package asks for."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pdmd.licences import HEAD, brought_along, licence

ROOT = Path(__file__).resolve().parents[1]


def test_every_dependency_is_listed_with_a_licence():
    text = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]
    listed = {name: (stated, by) for name, _, stated, by in cells}
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    for need in declared:
        stated, by = listed[canonicalize_name(Requirement(need).name)]
        assert "pdmd" in by.split(", ")
        assert stated != "not stated"
    assert HEAD.partition("{platform}")[0] in text


def test_the_script_follows_what_packages_ask_for():
    found = brought_along("matplotlib")
    assert "python-dateutil" in found
    assert found["pillow"][1] == {"matplotlib"}
    assert "MIT" in licence(found["pillow"][0])
