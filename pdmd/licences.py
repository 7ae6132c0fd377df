"""The packages that an installation brings along, with their licences, as Markdown.

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
LONGEST = 60  # of a licence in the table; some packages state its whole text


def licence(package: Distribution) -> str:
    """What the metadata says: the expression, else the classifiers, else the first line of the text."""
    said = package.metadata
    classifiers = [c.rpartition(" :: ")[2] for c in said.get_all("Classifier", []) if c.startswith("License ::")]
    text = "".join(said.get_all("License") or []).strip().splitlines()
    found = "".join(said.get_all("License-Expression") or []) or ", ".join(classifiers) or (text[0] if text else "")
    return re.sub(r"\s+", " ", found.replace("|", "/"))[:LONGEST] or "not stated"


def brought_along(root: str) -> dict[str, tuple[Distribution, set[str]]]:
    """Every package that is installed because of `root`, with those that ask for it."""
    found: dict[str, tuple[Distribution, set[str]]] = {}
    left = [(root, "")]
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
        needs = map(Requirement, package.requires or ())
        left += [(need.name, key) for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


def page(platform: str) -> str:
    """The page."""
    packages = brought_along("pdmd")
    rows = [
        f"| {key} | {package.version} | {licence(package)} | {', '.join(sorted(by))} |"
        for key, (package, by) in sorted(packages.items())
        if key != "pdmd"
    ]
    return HEAD.format(platform=platform) + "\n".join(rows) + "\n"


if __name__ == "__main__":
    import platform

    print(page(f"{platform.system()} {platform.machine()}"), end="")
