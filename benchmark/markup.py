"""HTML pages: templates that escape, text that cannot act up, a policy that lets nothing in from outside."""

from __future__ import annotations

import base64
import hashlib
import os
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

JOINERS = "\u200c\u200d"  # change how letters and emoji join, and nothing else


def visible(value: object) -> str:
    """Text with every character shown that would act instead: line feeds and tabs as ↵ and ⇥; other control
    characters, those that turn the direction of writing or have no width, and lone surrogates as ⟨U+202E⟩."""
    return "".join(map(_visible, str(value)))


def _visible(c: str) -> str:
    if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") or c in JOINERS:
        return c
    return {"\n": "↵", "\t": "⇥"}.get(c, f"⟨U+{ord(c):04X}⟩")


def isolated(value: object) -> Markup:
    """Someone else's text for a page: escaped, visible, its direction of writing kept to itself."""
    return Markup("<bdi>{}</bdi>").format(escape(visible(value)))


def data_uri(content: bytes, mime: str) -> str:
    """A file's bytes as a URL."""
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def relative_url(file: Path, folder: Path) -> str:
    """The URL of a file in a page that lies in `folder`; no name in it can become a scheme, a host or a query."""
    path = os.path.relpath(file, folder).replace(os.sep, "/")
    return quote(os.fsencode(path))


@cache
def _environment() -> Environment:
    env = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {"visible": visible, "isolated": isolated}
    return env


def render(template: str, linked: bool = False, **context: Any) -> str:
    """A page from a template beside this file. Its policy allows the one style sheet that it carries, by its
    hash, and images and media inside the page; where media are `linked`, those beside the page too."""
    style = _environment().get_template("style.css.j2").render()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    media = "data: 'self' file:" if linked else "data:"
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; media-src {media}; "
        "base-uri 'none'; form-action 'none'"
    )
    return _environment().get_template(template).render(style=Markup(style), policy=policy, linked=linked, **context)
