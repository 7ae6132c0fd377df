"""The pages in headless Chromium: other people's text stays text, nothing is fetched, the policy holds."""

import html
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from pdmd.benchmark import compare_html, markup, several
from pdmd.benchmark.compare import compare
from pdmd.benchmark.features.dis import Dis
from pdmd.benchmark.motion import Motion
from pdmd.benchmark.run import score_folder
from pdmd.media import write_video

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; install Debian's package chromium"),
    pytest.mark.fault("hostile text on a page"),
]
HELD = 5  # of the attacks, that a policy holds
RAN = "document.documentElement.setAttribute('data-ran', 1)"


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, list[str]]]:
    """An address, and what was asked for there."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{made.server_port}", asked
        made.shutdown()


def attacks(address: str) -> list[str]:
    """Texts that would run a script, fetch something or hide what follows, were they let."""
    return [
        f"<script>{RAN}</script>",
        f'<img src=http://{address}/img onerror="{RAN}">',
        f'"\'><svg onload="{RAN}"></svg><iframe src=http://{address}/frame></iframe>',
        f"</style><style>@import url(http://{address}/css); body {{ display: none }}</style>",
        f"</title></script><link rel=stylesheet href=http://{address}/link><base href=http://{address}/>",
        f'<meta http-equiv=refresh content="0;url=http://{address}/meta">',
        "left \u202eright\u2066 hidden\u200b \u061c bell \x07 escape \x1b[31m",
        "دائرة حمراء تتحرك إلى اليسار",
        "x" * 10_000,
    ]


def opened(page: Path, address: str, folder: Path) -> str:
    """A page's document once its scripts have run. Every host's name leads to the address."""
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    options += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    options += ["--disable-features=NetworkTimeServiceQuerying"]
    options += [f"--host-resolver-rules=MAP * {address}", "--virtual-time-budget=3000", "--dump-dom"]
    done = subprocess.run([str(CHROMIUM), *options, page.as_uri()], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ran(document: str) -> bool:
    """Whether a script has left its mark."""
    return re.search("<html[^>]* data-ran=", document) is not None


@pytest.fixture(scope="module")
def results(tmp_path_factory, server) -> list[Path]:
    """Two results whose prompts, ids, files and model are attacks."""
    made = []
    for name in ("old", "new"):
        folder = tmp_path_factory.mktemp(name)
        rows = []
        for i, text in enumerate(attacks(server[0])):
            frames = np.zeros((2, 32, 32, 3), np.uint8)
            frames[0, 8:16, 8:16], frames[1, 8:16, 10 + i : 18 + i] = 255, 255
            file = f"{i} {text.replace('/', '')[:50]}.mp4".replace("\x07", "")
            write_video(folder / file, frames if name == "old" else frames[:, ::-1], 8)
            rows.append({"id": f"{i} {text[:60]}", "seed": i, "prompt": text, "file": file})
        rows.append({"id": "gone", "seed": 0, "prompt": attacks(server[0])[0], "file": "<script>.mp4"})
        (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        model = {"name": f"{name}<script>{RAN}</script>", "domain": "open", "note": attacks(server[0])[1]}
        (folder / "generation.json").write_text(json.dumps({"model": model}))
        score_folder("motion", folder, Motion(Dis()))
        made.append(folder)
    return made


def test_the_attacks_work_where_nothing_holds_them(tmp_path, server) -> None:
    """So that their failure on the pages means something."""
    (tmp_path / "bare.html").write_text("<html><body>" + "<p>".join(attacks(server[0])[:HELD]), encoding="utf-8")
    assert ran(opened(tmp_path / "bare.html", server[0], tmp_path))
    assert {"/img", "/frame", "/css", "/link"} <= set(server[1])
    server[1].clear()


@pytest.mark.parametrize("kind", ["one", "several", "comparison"])
def test_a_page_shows_them_as_text(results, tmp_path, server, kind: str) -> None:
    page = tmp_path / "page.html"
    if kind == "one":
        page = results[0] / "report.html"
    elif kind == "several":
        page = several.report(results, tmp_path)[1]
    else:
        gates = tmp_path / "gates.toml"
        gates.write_text("without_fidelity = true\n[gate.optical_flow_dis]\nmargin = 0.1\n")
        page.write_text(compare_html.page(compare(*results, gates), tmp_path), encoding="utf-8")
    document = opened(page, server[0], tmp_path)
    assert not ran(document)
    assert "<script" not in document
    shown = [html.escape(markup.visible(text), quote=False) in document for text in attacks(server[0])]
    assert sum(shown) >= 3 if kind == "comparison" else all(shown)  # that page has the prompts that moved most alone
    assert server[1] == []
    if kind != "one":
        return
    # and had one been let in, the policy, which is that of all pages, would hold it
    content = page.read_text(encoding="utf-8")
    planted = page.with_name("planted.html")
    planted.write_text(content.replace("</body>", "".join(attacks(server[0])[:HELD]) + "</body>"), encoding="utf-8")
    document = opened(planted, server[0], tmp_path)
    assert "<script" in document
    assert not ran(document)
    assert server[1] == []
