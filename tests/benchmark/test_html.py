"""The pages: whole and offline, nobody's text can act up, media embedded or linked, several results on one."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections import Counter
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from pdmd.benchmark import charts, exhibits, markup, page, several
from pdmd.benchmark.features.dis import Dis
from pdmd.benchmark.motion import Motion
from pdmd.benchmark.run import run_suite, score_folder
from pdmd.benchmark.sides import read_side
from pdmd.benchmark.suites import get_suite
from pdmd.cli import app
from pdmd.errors import UserError
from pdmd.media import read_video, write_png, write_video

VOID = {"meta", "img", "br", "link", "input", "hr", "base", "source", "embed"}
HOSTILE = {
    "script": "<script>alert(1)</script> & <img src=x onerror=alert(2)>",
    "quotes": "\"'><svg/onload=alert(3)> </title></style><style>*{display:none}</style>",
    "control": "bell \x07 escape \x1b[31m feed \x0c del \x7f c1 \x9b line\nnew\ttab",
    "bidi": "left \u202eright\u2066 hidden\u200b mark \u061c",
    "arabic": "دائرة حمراء تتحرك إلى اليسار",
    "long": "word" * 2500,
    "markup": "{{ 7 * 7 }} {% raw %} ${x} <!-- -->",
}
MODEL = "<b>model</b> \u202e'\"&"


@dataclass
class Page(HTMLParser):
    """What a page holds: tags with their attributes, URLs, text, and tags left open or closed for nothing."""

    source: str
    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    text: str = ""
    style: str = ""
    crossed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.crossed.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.text += data

    def urls(self) -> list[str]:
        names = ("src", "href", "poster", "srcset", "action", "data", "background", "xlink:href")
        return [attrs[name] for _, attrs in self.tags for name in names if name in attrs]

    def policy(self) -> str:
        return next(a["content"] for _, a in self.tags if a.get("http-equiv") == "Content-Security-Policy")


def checked(path: Path) -> Page:
    """A page's file, after what must hold of every page."""
    found = Page(path.read_text(encoding="utf-8"))
    names = Counter(tag for tag, _ in found.tags)
    assert not found.crossed
    assert not found.open
    assert not names.keys() & {"script", "link", "iframe", "object", "embed", "base", "form", "foreignobject"}
    assert names["style"] == names["head"] == names["body"] == 1
    assert not [a for _, a in found.tags if any(k.startswith("on") or k == "style" for k in a)]
    assert not [u for u in found.urls() if re.match(r"(?!data:(image|video)/)[a-z0-9+.-]*:|//|/", u, re.IGNORECASE)]
    assert not re.search(r"url\(|@import|http", found.style)
    assert "default-src 'none'" in found.policy()
    assert not re.search(r"unsafe|http|\*", found.policy())
    return found


def decoded(uri: str) -> np.ndarray:
    """The pixels of a picture in a page, as OpenCV has them."""
    content = np.frombuffer(base64.b64decode(uri.split(",")[1]), np.uint8)
    return cv2.imdecode(content, cv2.IMREAD_UNCHANGED)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """Clips of two frames whose prompts, file names and model name are as bad as can be, scored."""
    folder = tmp_path_factory.mktemp("hostile")
    rows = []
    for i, (key, prompt) in enumerate(HOSTILE.items()):
        file = f"{i} <b>%23#?&'\"javascript:x.mp4"
        frames = np.zeros((2, 32, 32, 3), np.uint8)
        frames[0, 8:16, 8:16], frames[1, 8:16, 10:18] = 255, 255
        write_video(folder / file, frames, 8)
        rows.append({"id": f"<i>{key}", "seed": i, "prompt": prompt, "file": file})
    rows.append({"id": "gone", "seed": 0, "prompt": "<u>gone</u>", "file": "no<u>where.mp4"})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    generation = {"model": {"name": MODEL, "domain": "open", "note": "</dd><script>"}}
    (folder / "generation.json").write_text(json.dumps(generation))
    score_folder("motion", folder, Motion(Dis()))
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory, make_renderer) -> Path:
    """The diversity results of two models on three prompts, the second one's images black."""
    out = tmp_path_factory.mktemp("images")

    class Blank(make_renderer):
        def generate(self, prompts, seeds, frames):
            return np.zeros_like(super().generate(prompts, seeds, frames))

    run_suite(get_suite("diversity"), [make_renderer("one"), Blank("two")], out, limit=3, quiet=True)
    return out


def test_hostile_text_is_shown_and_nothing_else(hostile) -> None:
    found = checked(hostile / "report.html")
    for prompt in HOSTILE.values():
        assert markup.visible(prompt) in found.text
    assert "escape ⟨U+001B⟩[31m feed ⟨U+000C⟩ del ⟨U+007F⟩ c1 ⟨U+009B⟩ line↵new⇥tab" in found.text
    assert "⟨U+202E⟩right⟨U+2066⟩" in found.text
    assert HOSTILE["arabic"] in found.text
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", found.source)
    assert "no<u>where.mp4 is not there" in found.text
    assert markup.visible(MODEL) in found.text
    assert "</dd><script>" in found.text
    assert not {"b", "i", "u"} & {tag for tag, a in found.tags if tag in ("i", "u")}


def test_clips_play_in_the_page_beside_frames_and_flow(hostile) -> None:
    found = checked(hostile / "report.html")
    clips = [a for tag, a in found.tags if tag == "video"]
    assert len(clips) == len(HOSTILE)
    assert all({"controls", "muted", "loop"} <= set(a) for a in clips)
    first = base64.b64decode(clips[0]["src"].removeprefix("data:video/mp4;base64,"))
    assert first in [file.read_bytes() for file in hostile.glob("*.mp4")]
    strips = [a for _, a in found.tags if a.get("alt") == "frames from first to last"]
    assert len({a["src"] for a in strips}) == 1  # of two frames, not as wide as the page
    frames = decoded(strips[0]["src"])
    assert frames.shape == (32, 6 * 32 + 5 * exhibits.GAP, 4)
    assert not frames[:, 2 * (32 + exhibits.GAP) :, 3].any()
    assert sum(a.get("alt") == "their flow as colour" for _, a in found.tags) == len(HOSTILE)
    assert "file:" not in found.policy()


def test_media_over_the_limit_are_linked(hostile, monkeypatch, tmp_path) -> None:
    size = sum(file.stat().st_size for file in hostile.glob("*.mp4"))
    side = {"x": read_side(hostile)}
    for limit, linked in ((size, False), (size - 1, True)):
        monkeypatch.setattr(exhibits, "EMBED_LIMIT", limit)
        path = tmp_path / f"{linked}.html"
        path.write_text(page.results_page(side, hostile))
        found = checked(path)
        clips = [a["src"] for tag, a in found.tags if tag == "video"]
        assert all(src.startswith("data:") != linked for src in clips)
        assert ("linked" in found.text) == linked
    names = {file.name for file in hostile.glob("*.mp4")}
    assert {unquote(src) for src in clips} == names
    assert not [src for src in clips if set(src) & set("<>\"'#?&:")]


def test_images_are_sorted_from_least_to_most_diverse(images) -> None:
    found = checked(images / "one" / "report.html")
    order = re.findall(r"\bd\d\d\b", found.text.split("From least")[1])[:3]
    score = {row["id"]: float(row["factor_diversity"]) for row in read_side(images / "one").prompts}
    assert order == sorted(score, key=lambda key: score[key])
    assert len(set(score.values())) > 1
    pictures = [a for tag, a in found.tags if tag == "img"]
    assert len(pictures) == 3 * 8
    content = base64.b64decode(pictures[0]["src"].removeprefix("data:image/png;base64,"))
    assert content == (images / "one" / "media" / f"{order[0]}-{pictures[0]['alt'].split()[1]}.png").read_bytes()


def test_large_images_that_are_linked_have_thumbnails(tmp_path) -> None:
    write_png(tmp_path / "a.png", np.zeros((600, 900, 3), np.uint8))
    shown = exhibits.Shelf(tmp_path / "pages", True).show(tmp_path, {"seed": "0", "file": "a.png"})
    assert shown.link == "../a.png"
    assert shown.picture.startswith("data:image/webp")
    embedded = exhibits.Shelf(tmp_path, False).show(tmp_path, {"seed": "0", "file": "a.png"})
    assert (embedded.link, embedded.width, embedded.height) == ("", 900, 600)


def test_a_file_outside_the_folder_is_not_shown(tmp_path) -> None:
    write_png(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.png").symlink_to(tmp_path / "a.png")
    for file in ("../a.png", str(tmp_path / "a.png"), "b.png"):
        shown = exhibits.Shelf(tmp_path, False).show(tmp_path / "in", {"seed": "0", "file": file})
        assert shown.problem
        assert not shown.picture


def test_what_no_browser_plays_is_converted(tmp_path) -> None:
    import av

    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = 33, 33, "yuv420p"
        for level in (0, 128):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((33, 33, 3), level, np.uint8), "rgb24")))
        container.mux(stream.encode())
    assert exhibits.playable(tmp_path / "a.mkv") == ""
    shown = exhibits.Shelf(tmp_path, False).show(tmp_path, {"seed": "0", "file": "a.mkv"})
    (tmp_path / "b.mp4").write_bytes(base64.b64decode(shown.clip.removeprefix("data:video/mp4;base64,")))
    assert read_video(tmp_path / "b.mp4").frames.shape == (2, 32, 32, 3)
    linked = exhibits.Shelf(tmp_path, True).show(tmp_path, {"seed": "0", "file": "a.mkv"})
    assert (linked.clip, linked.link) == ("", "a.mkv")


def test_flow_is_coloured_by_direction_and_length() -> None:
    flow = np.zeros((64, 64, 2), np.float32)
    flow[:32, :32, 0], flow[:32, 32:, 0], flow[32:, :32, 1] = 2, -1, 50  # right at the full, left at half, down beyond
    colour = exhibits.flow_colour(flow)
    assert tuple(colour[0, 0]) == (255, 0, 0, 255)
    assert np.allclose(colour[0, 40], (0, 255, 255, 127), atol=1)
    assert colour[40, 0, 3] == 255
    assert colour[40, 40, 3] == 0


def test_the_clips_worth_a_look_come_once_each() -> None:
    keys = [f"{i:03}" for i in range(220)]
    flow = {key: i / 10 for i, key in enumerate(keys)}
    right = dict.fromkeys(keys, 1.0) | {"100": 0.0, "219": 0.5}
    groups = {g.title: g.ids for g in page.by_motion({"x": {"fidelity": right, "optical_flow": flow}}, {})}
    assert groups["Most motion"] == ["219", "218", "217", "216"]
    assert groups["Least motion"] == ["000", "001", "002", "003"]
    assert groups["Lowest fidelity"][0] == "100"
    assert all("055" <= key <= "165" for key in groups["Typical"])
    every = [key for ids in groups.values() for key in ids]
    assert len(every) == len(set(every)) == 4 * page.PICKED


def test_intervals_are_drawn_where_they_are(images) -> None:
    found = checked(images / "one" / "report.html")
    metric = read_side(images / "one").result.metric("factor_diversity")
    assert metric is not None
    (chart,) = (c for c in charts.bars({"one": read_side(images / "one").result}, ["factor_diversity"]))
    ends = [f"{chart.axis.at(x)}%" for x in (metric.interval.low, metric.interval.high)]
    assert {"x1": ends[0], "x2": ends[1], "class": "whisker", "y1": "9", "y2": "9"} in [a for _, a in found.tags]
    assert charts.axis(0, 1).at(0.25) == 25
    assert charts.axis(0.7, 0.7).low == 0


def test_several_results_share_a_table_and_a_page(images, tmp_path) -> None:
    arguments = ["report", str(images / "one"), str(images / "two" / "result.json"), "--out", str(tmp_path / "both")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    text = (tmp_path / "both" / "report.md").read_text()
    assert "| one |" in text
    assert "| two |" in text
    link = re.search(r"\[one\]\((.*)\)", text)
    assert link is not None
    assert (tmp_path / "both" / link[1]).resolve() == images / "one" / "report.md"
    found = checked(tmp_path / "both" / "report.html")
    assert sum(tag == "img" for tag, _ in found.tags) == 2 * 3 * 8
    assert "0.708" in found.text  # the paper's
    checked(images / "report.html")


def test_several_results_of_other_prompts_are_refused(images, hostile, tmp_path) -> None:
    with pytest.raises(UserError, match=r"suite differs, diversity in .*, motion in") as caught:
        several.report([images / "one", hostile], tmp_path / "no")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="given twice"):
        several.report([images / "one", images / "one"], tmp_path / "no")
    copy = tmp_path / "copy"
    shutil.copytree(images / "one", copy)
    (copy / "result.json").write_text((copy / "result.json").read_text().replace('"sha256": "', '"sha256": "0', 1))
    with pytest.raises(UserError, match="sha256 differs"):
        several.report([images / "one", copy], tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_two_models_of_one_name_are_told_apart(images, tmp_path) -> None:
    shutil.copytree(images / "one", tmp_path / "copy")
    labels = several.labelled([read_side(images / "one"), read_side(tmp_path / "copy")])
    assert list(labels) == [f"one ({images / 'one'})", f"one ({tmp_path / 'copy'})"]


def test_a_comparison_shows_what_moved_old_and_new(images, tmp_path) -> None:
    shutil.copytree(images / "two", tmp_path / "two")
    target = tmp_path / "pages" / "x.html"
    arguments = ["compare", str(images / "one"), str(tmp_path / "two"), "--html", str(target)]
    assert CliRunner().invoke(app, arguments).exit_code == 1
    found = checked(target)
    assert "failed" in found.text
    assert "Lost most: fidelity" in found.text
    assert sum(tag == "img" for tag, _ in found.tags) == 2 * 3 * 8
    shutil.rmtree(tmp_path / "two" / "media")  # as a baseline in a repository
    CliRunner().invoke(app, arguments)
    assert "media/d00-0.png is not there" in checked(target).text
    refused = CliRunner().invoke(app, [*arguments, "--accept", "--reason", "x"])
    assert "--html" in str(refused.exception)


@pytest.mark.parametrize(
    ("file", "url"),
    [
        ("media/m000-0.mp4", "media/m000-0.mp4"),
        ("javascript:alert(1)", "javascript%3Aalert%281%29"),
        ("a b?c#d%e&<>\"'.png", "a%20b%3Fc%23d%25e%26%3C%3E%22%27.png"),
        ("http:/x", "http%3A/x"),
    ],
)
def test_a_file_name_is_never_more_than_a_path(file: str, url: str, tmp_path) -> None:
    assert markup.relative_url(tmp_path / file, tmp_path) == url
