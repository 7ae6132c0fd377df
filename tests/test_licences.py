"""docs/licences.md is what the package asks for, and what nox installs beside it."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pdmd.licences import HEAD, TOOLS, TOOLS_HEAD, brought_along, licence

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def rows(text: str) -> dict[str, list[str]]:
    """Package -> version, licence, by whom or what for."""
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {name: rest for name, *rest in cells if name not in ("package", "---")}


def names(needs: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(need).name) for need in needs}


def test_every_dependency_is_listed_with_a_licence():
    listed = rows(TEXT.partition(TOOLS_HEAD)[0])
    for name in names(PROJECT["dependencies"]):
        _, stated, by = listed[name]
        assert "pdmd" in by.split(", ")
        assert stated != "not stated"
    assert HEAD.partition("{platform}")[0] in TEXT


def test_every_tool_that_nox_installs_is_listed_with_a_licence():
    installs = re.findall(r"session\.install\((.*)\)", (ROOT / "noxfile.py").read_text(encoding="utf-8"))
    words = {word for line in installs for word in re.findall(r'"(\w[\w-]+)"', line)}
    assert {"atheris", "pip-audit", "vbench"} <= words
    assert words | names(PROJECT["optional-dependencies"]["dev"]) == TOOLS.keys()
    listed = rows(TEXT)
    for name, why in TOOLS.items():
        _, stated, cell = listed[name]
        assert stated != "not stated"
        assert cell == why or name == "setuptools"  # which an installation brings along too


def test_a_licence_is_what_the_package_says():
    compared = set()
    for name, (version, stated, _) in rows(TEXT).items():
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        if package.version == version:
            assert licence(package) == stated, name
            compared.add(name)
    assert compared


def test_the_script_follows_what_packages_ask_for():
    found = brought_along("matplotlib")
    assert "python-dateutil" in found
    assert found["pillow"][1] == {"matplotlib"}
    assert "MIT" in licence(found["pillow"][0])
