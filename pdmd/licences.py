"""The packages that an installation and the work on the project bring along, with their licences, as Markdown.

pip install -e ".[dev]" atheris pip-audit && pip install --no-deps vbench decord easydict
python -m pdmd.licences > docs/licences.md
"""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HEAD = """# Licences

`python -m pdmd.licences` writes this page: what `pip install pdmd` brings along on {platform}, and the licence that
each package's own metadata states. pdmd itself, the weights of the embedded teachers and their encoder, the prompts and
the pictures in this repository are under the Apache License 2.0 ([LICENSE](../LICENSE)); the weights were trained here
from nothing, on renders. The wheel of av has FFmpeg in it, which says of itself "LGPL version 3 or later", with x264,
whose own licence is the GPL-2.0-or-later.

Known vulnerabilities are not on this page. `nox -s audit` asks pip-audit for them, whose index is pypi.org's JSON
interface; from where this page was written it could not be reached, and no audit has been run.

| package | version | licence | asked for by |
| --- | --- | --- | --- |
"""
TOOLS_HEAD = """
## For the work on the project

What `nox` installs on top, for tests, lint and audits; none of it is in an installation. The versions of pip-audit and
of what it asks for are those of the day when this page was written.

| package | version | licence | what for |
| --- | --- | --- | --- |
"""
#: What nox's sessions install beside pdmd itself, its dev extra too, and what for.
TOOLS = {
    "atheris": "nox -s torture: fuzzing by coverage (tests/fuzz.py)",
    "decord": "tests: reads videos for vbench",
    "easydict": "tests: vbench's options",
    "hypothesis": "tests: hostile inputs by structure",
    "jsonschema": "tests: result.json against its schema",
    "mypy": "nox -s lint: types",
    "nox": "runs all of these",
    "pip-audit": "nox -s audit: known vulnerabilities",
    "pytest": "runs the tests",
    "ruff": "nox -s lint: rules and format",
    "setuptools": "builds the wheel",
    "vbench": "tests: the second implementation of dynamic degree",
}
ALONE = ("decord", "easydict", "vbench")  # installed without what they ask for
LONGEST = 60  # of a licence in the table; some packages state its whole text


def licence(package: Distribution) -> str:
    """What the metadata says: the expression, else the classifiers, else the first line of the text, else that of the
    licence's file."""
    said = package.metadata
    classifiers = [c.rpartition(" :: ")[2] for c in said.get_all("Classifier", []) if c.startswith("License ::")]
    paths = [f"{folder}{name}" for name in said.get_all("License-File") or [] for folder in ("licenses/", "")]
    content = next(filter(None, map(package.read_text, paths)), "")
    text = ("".join(said.get_all("License") or []) or content).strip().splitlines()
    found = "".join(said.get_all("License-Expression") or []) or ", ".join(classifiers) or (text[0] if text else "")
    return re.sub(r"\s+", " ", found.replace("|", "/"))[:LONGEST] or "not stated"


def brought_along(*roots: str) -> dict[str, tuple[Distribution, set[str]]]:
    """Every package that is installed because of `roots`, with those that ask for it."""
    found: dict[str, tuple[Distribution, set[str]]] = {}
    left = [(root, "") for root in roots]
    while left:
        name, by = left.pop()
        key = canonicalize_name(name)
        if key in found:
            found[key][1].add(by)
            continue
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue  # for another platform
        found[key] = (package, {by})
        needs = map(Requirement, () if key in ALONE else package.requires or ())
        left += [(need.name, key) for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


def page(platform: str) -> str:
    """The page."""
    packages, tools = brought_along("pdmd"), brought_along(*TOOLS)
    asked = {key: ", ".join(sorted(by)) for key, (_, by) in packages.items() if key != "pdmd"}
    wanted = {key: TOOLS.get(key) or f"for {', '.join(sorted(by))}" for key, (_, by) in tools.items()}
    extra = {key: why for key, why in wanted.items() if key not in packages}
    return HEAD.format(platform=platform) + _rows(packages, asked) + TOOLS_HEAD + _rows(tools, extra)


def _rows(packages: dict[str, tuple[Distribution, set[str]]], last: dict[str, str]) -> str:
    """A row for each package that `last` has the last cell of."""
    listed = ((key, packages[key][0]) for key in sorted(last))
    return "".join(f"| {key} | {it.version} | {licence(it)} | {last[key]} |\n" for key, it in listed)


if __name__ == "__main__":
    import platform

    print(page(f"{platform.system()} {platform.machine()}"), end="")
