"""Files from outside, whatever they hold: read, or refused by a UserError of the command line's one line.

PDMD_EXAMPLES is the number of inputs a format; `nox -s torture` takes 10,000.
"""

import copy
import json
import os
import pickle
import resource
import struct
import tempfile
import time
import zlib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
import watched
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from watched import listed, refused_or_read

from pdmd import media
from pdmd.benchmark import frechet
from pdmd.benchmark.compare import compare
from pdmd.benchmark.features import weights
from pdmd.benchmark.gates import read_gates
from pdmd.benchmark.generate import Sample, _line
from pdmd.benchmark.given import match
from pdmd.benchmark.run import run_suite
from pdmd.benchmark.several import report
from pdmd.benchmark.suites import get_suite, parse_prompts
from pdmd.config import Config, make_config
from pdmd.errors import UserError
from pdmd.run import Run
from pdmd.sample import load_model
from pdmd.sprites import world
from pdmd.starts import read_pictured, read_prompts
from pdmd.teachers.mixture import MLP, Mixture
from pdmd.teachers.settings import Settings, read_settings
from pdmd.teachers.students import read_student

pytestmark = [pytest.mark.fault("a hostile file, by hypothesis"), pytest.mark.usefixtures("nothing_outside")]
EXAMPLES = int(os.environ.get("PDMD_EXAMPLES", "20"))
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,  # of CPU time instead: refused_or_read
    derandomize="PDMD_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
DEEP, DIGITS, HALF = "[" * 100_000, "1" * 5000, '"\\ud800"'
ODD = st.sampled_from([-1, 0, 1e308, 10**30, "", "\x00", "‮", "../../x", "/etc/passwd", "a\nb", "x" * 10_000, [], {}])
VALUES = ODD | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(autouse=True, scope="module")
def memory() -> Iterator[None]:
    """No input takes 2 GB; one that wants far more is a MemoryError, not the end of the process."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    limits, mapped = resource.getrlimit(resource.RLIMIT_AS), int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (mapped * resource.getpagesize() + 8 * 2**30, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 * 2**20


def places(content) -> list[tuple]:
    """Every (container, key) of a JSON document."""
    keys = list(content) if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    return [place for key in keys for place in ((content, key), *places(content[key]))]


@st.composite
def twisted(draw, document) -> str:
    """A JSON document with values replaced, removed or added anywhere."""
    content = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        found = places(content)
        if not found:
            break
        container, key = found[draw(st.integers(0, len(found) - 1))]
        how = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if how == "replace":
            container[key] = draw(VALUES)
        elif how == "remove":
            del container[key]
        elif isinstance(container, dict):
            container[draw(st.text(max_size=5))] = draw(VALUES)
        else:
            container.append(draw(VALUES))
    return (
        json.dumps(content, ensure_ascii=draw(st.booleans()))
        .encode("utf-8", "surrogatepass")
        .decode("utf-8", "replace")
    )


#: Changes of bytes: each what is done, where (from the start, around the end), to how many bytes, and what is put in.
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["flip", "flip", "cut", "end", "insert", "repeat"]),
        st.integers(0, 2**32),
        st.integers(1, 64),
        st.binary(max_size=16),
    ),
    min_size=1,
    max_size=4,
)


def changed(content: bytes, changes: list[tuple[str, int, int, bytes]]) -> bytes:
    """Bytes with some changed, cut out, put in or repeated. Of large ones a test draws the changes alone: hypothesis
    keeps all that it draws."""
    made = bytearray(content)
    for how, place, count, new in changes:
        at = place % max(1, len(made))
        if how == "flip" and made:
            made[at] ^= (place // len(made) + count) % 255 + 1
        elif how == "cut":
            del made[at : at + count]
        elif how == "end":
            del made[at:]
        elif how == "insert":
            made[at:at] = new
        elif how == "repeat":
            made[at:at] = made[at : at + count]
    return bytes(made)


def mangled(content: bytes) -> st.SearchStrategy[bytes]:
    """A small file's bytes with some changed, cut out, put in or repeated."""
    return CHANGES.map(lambda changes: changed(content, changes))


@fuzz
@given(mangled(files("pdmd.recipes").joinpath("paper.toml").read_bytes()))
@example(f"x = {DEEP}".encode())
@example(f"steps = {DIGITS}".encode())
def test_recipe_bytes(tmp_path, content: bytes) -> None:
    (tmp_path / "r.toml").write_bytes(content)
    refused_or_read(lambda: make_config(recipe=tmp_path / "r.toml"))


LITERALS = st.sampled_from(
    [
        "true",
        "-1",
        "0",
        "3",
        "1e9",
        "1000000000",
        "inf",
        "nan",
        '"full"',
        '"x"',
        "[]",
        "{}",
        "2024-01-01",
        "0.5",
        "9e99",
    ]
)


@fuzz
@given(st.dictionaries(st.sampled_from([*Config.__dataclass_fields__]), LITERALS, max_size=5))
@example({"steps": "1000000000"})
@example({"method": '"few-step"', "steps": "999999999"})
def test_recipe_values(tmp_path, rows: dict[str, str]) -> None:
    (tmp_path / "r.toml").write_text("".join(f"{key} = {value}\n" for key, value in rows.items()))
    refused_or_read(lambda: make_config(recipe=tmp_path / "r.toml"))
    refused_or_read(lambda: make_config(overrides=[f"{key}={value}" for key, value in rows.items()]))


@fuzz
@given(mangled(files("pdmd.benchmark").joinpath("gates", "motion.toml").read_bytes()))
@example(b"level = 9e999\n[gate.x]\nmargin = 1" + b"0" * 5000)
@example(b"gate = " + DEEP.encode())
def test_gates(tmp_path, content: bytes) -> None:
    (tmp_path / "g.toml").write_bytes(content)
    refused_or_read(lambda: read_gates(tmp_path / "g.toml"))


PROMPTS = [{"id": "a", "text": "a red circle", "tags": ["x"]}, {"id": "b", "text": "b", "image": "c"}]


@fuzz
@given(twisted(PROMPTS) | mangled("\n".join(map(json.dumps, PROMPTS)).encode()))
@example(DEEP)
@example('{"id": "a", "text": ' + HALF + "}")
@example('{"id": ' + DIGITS + "}")
def test_prompts(tmp_path, content: str | bytes) -> None:
    if isinstance(content, str):
        rows = json.loads(content) if content.startswith("[{") else content
        content = "\n".join(map(json.dumps, rows)).encode() if isinstance(rows, list) else content.encode()
    refused_or_read(lambda: parse_prompts(content, "p.jsonl", "open", 0))
    for name in ("p.jsonl", "p.txt"):
        (tmp_path / name).write_bytes(content)
        refused_or_read(lambda name=name: read_prompts(tmp_path / name))
        refused_or_read(lambda name=name: read_pictured(tmp_path / name))


@pytest.mark.parametrize("image", ["x" * 300 + ".png", "x" * 300, "a\0b", "", ".", "/", "gone.png"])
def test_an_image_that_prompts_name_and_no_one_has_is_named_with_its_line(tmp_path, image: str) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps({"text": "a red circle", "image": image}) + "\n")
    with pytest.raises(UserError, match=r"p\.jsonl, prompt 1: ") as stop:
        read_pictured(tmp_path / "p.jsonl")
    assert len(str(stop.value).splitlines()) == 1


ROWS = [
    {"id": "m000", "prompt": "", "seed": 0, "file": "a.png"},
    {"id": "x", "prompt": "y", "seed": 1, "file": "b.mp4"},
]
OURS = _line(Sample("m000", "", 0, "a.png", "ab", "cd"))
RECORD = {
    "suite": {"name": "motion", "version": 1, "seeds": [0], "own_noise": True},
    "model": {"name": "m", "domain": "sprites", "kind": "teacher"},
    "prompts": {"file": "f", "version": 1, "sha256": "a", "domain": "sprites", "n": 2},
    "media": {"fps": "8", "frames": None, "video": {"codec": "libx264"}, "image": "PNG"},
}


@fuzz
@given(twisted(ROWS) | mangled(("\n".join(map(json.dumps, ROWS)) + "\n" + OURS).encode()), st.none() | twisted(RECORD))
@example(DEEP, None)
@example("[]", DEEP)
@example('[{"id": "a", "seed": ' + DIGITS + "}]", DIGITS)
def test_manifest_and_record(tmp_path, content: str | bytes, record: str | None) -> None:
    if isinstance(content, str):
        try:
            content = "\n".join(map(json.dumps, json.loads(content))).encode()
        except (ValueError, RecursionError, TypeError):
            content = content.encode()
    media.write_png(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "manifest.jsonl").write_bytes(content)
    (tmp_path / "generation.json").unlink(missing_ok=True)
    if record is not None:
        (tmp_path / "generation.json").write_text(record, encoding="utf-8")
    refused_or_read(lambda: match(tmp_path, get_suite("motion"), None, 3, None))


@fuzz
@given(st.lists(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40)))
@example(["m000_seed" + "9" * 4400])
def test_file_names(tmp_path, names: list[str]) -> None:
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    for name in names:
        try:
            (folder / f"{name}.png").write_bytes(b"")
        except OSError:
            assume(False)
    refused_or_read(lambda: match(folder, get_suite("motion"), None, 3, None))


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """The folder of a small result."""
    folder = tmp_path_factory.mktemp("clips")
    for i in range(2):
        scene = world.sample_scene(np.random.default_rng(i))
        media.write_video(folder / f"m{i:03d}-{i}.mp4", world.render(scene, 5), 8)
    out = tmp_path_factory.mktemp("measured")
    (path,) = run_suite(get_suite("motion"), [], out, media=[folder], domain="sprites", limit=2, quiet=True)
    return path.parent


def with_result(measured: Path, folder: Path, result: bytes, items: bytes) -> None:
    (folder / "new").mkdir(exist_ok=True)
    (folder / "new" / "result.json").write_bytes(result)
    (folder / "new" / "items.csv").write_bytes(items)
    refused_or_read(lambda: compare(measured, folder / "new"))
    refused_or_read(lambda: report([folder / "new"], folder / "report"))


#: Two pages an input take their time to draw: fewer of them.
drawn = settings(fuzz, max_examples=EXAMPLES // 2)


@drawn
@given(data=st.data())
def test_result(measured, tmp_path, data) -> None:
    document = json.loads((measured / "result.json").read_text())
    content = data.draw(twisted(document)).encode("utf-8", "replace")
    with_result(measured, tmp_path, content, (measured / "items.csv").read_bytes())


@drawn
@given(data=st.data())
def test_result_bytes(measured, tmp_path, data) -> None:
    result, items = ((measured / name).read_bytes() for name in ("result.json", "items.csv"))
    with_result(measured, tmp_path, changed(result, data.draw(CHANGES)), items)
    with_result(measured, tmp_path, result, changed(items, data.draw(CHANGES)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"git": ', '"git": "x", "was": '),
        (",m000-0.mp4,", f",{'x' * 300},"),
        (",m000-0.mp4,", ",a\x00b,"),
    ],
    ids=["git", "long name", "NUL"],
)
def test_odd_results(measured, tmp_path, old: str, new: str) -> None:
    parts = [(measured / name).read_text() for name in ("result.json", "items.csv")]
    assert old in "".join(parts)
    with_result(measured, tmp_path, *(part.replace(old, new, 1).encode() for part in parts))


@fuzz
@given(data=st.data())
def test_embeddings(measured, tmp_path, data) -> None:
    (tmp_path / frechet.FILE).write_bytes(changed((measured / frechet.FILE).read_bytes(), data.draw(CHANGES)))
    refused_or_read(lambda: frechet.load(tmp_path))


@pytest.mark.parametrize("content", [DEEP, DIGITS, HALF, '{"schema_version": NaN}', "null", "\ufeff", ""])
def test_json_that_no_one_writes(tmp_path, content: str) -> None:
    for name in ("result.json", "student.json", "pdmd.json", "config.json", "items.csv"):
        (tmp_path / name).write_text(content)
    settings = Settings("open", 5, 8, 32, 32, 3.0, 4)
    for read in (
        lambda: compare(tmp_path, tmp_path),
        lambda: read_student(tmp_path),
        lambda: read_settings(tmp_path, settings),
        lambda: Run.reopen(tmp_path),
        lambda: load_model(str(tmp_path)),
    ):
        with pytest.raises(UserError):
            read()


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    mixture = Mixture()
    nets = [MLP(2, torch.Generator().manual_seed(k)) for k in range(2)]
    mixture.save_student(nets, (1.0, 0.9, 0.7, 0.3, 0.0), (0, 0, 1, 1), folder)
    return folder


@fuzz
@given(data=st.data())
def test_student(student, tmp_path, data) -> None:
    described = data.draw(twisted(json.loads((student / "student.json").read_text())))
    (tmp_path / "student.json").write_text(described, encoding="utf-8")
    for name in ("expert_0.safetensors", "expert_1.safetensors"):
        (tmp_path / name).write_bytes((student / name).read_bytes())
    refused_or_read(lambda: load_model(str(tmp_path)))
    refused_or_read(lambda: read_student(tmp_path))


def test_an_expert_of_a_great_number_is_refused_at_once(student, tmp_path) -> None:
    described = json.loads((student / "student.json").read_text())
    (tmp_path / "student.json").write_text(json.dumps(described | {"experts": [0, 0, 1, 10**9]}))
    started = time.process_time()
    with pytest.raises(UserError, match=r"student\.json is damaged"):
        load_model(str(tmp_path))
    assert time.process_time() - started < 1


@fuzz
@given(data=st.data())
def test_student_weights(student, tmp_path, data) -> None:
    (tmp_path / "student.json").write_bytes((student / "student.json").read_bytes())
    for name in ("expert_0.safetensors", "expert_1.safetensors"):
        (tmp_path / name).write_bytes(changed((student / name).read_bytes(), data.draw(CHANGES)))
    refused_or_read(lambda: load_model(str(tmp_path)))


SETTINGS = {"domain": "open", "frames": 5, "fps": 8, "height": 32, "width": 32, "guidance": [3.0, 2.0], "steps": 4}


@fuzz
@given(twisted(SETTINGS))
def test_settings(tmp_path, content: str) -> None:
    (tmp_path / "pdmd.json").write_text(content, encoding="utf-8")
    refused_or_read(lambda: read_settings(tmp_path, Settings("open", 5, 8, 32, 32, 3.0, 4)))


@fuzz
@given(twisted({"version": 1, "pdmd": "0", "config": {"method": "phased", "steps": 4, "lr": 1e-4, "phases": None}}))
@example('{"version": 1, "config": {"steps": 1000000000}}')
def test_run_config(tmp_path, content: str) -> None:
    (tmp_path / "config.json").write_text(content, encoding="utf-8")

    def read() -> None:
        run = Run.reopen(tmp_path)
        run.close()
        run.config.plan()

    refused_or_read(read)


@fuzz
@given(mangled(b'{"step": 0, "x": 1}\n{"step": 1, "x": 2}\n'))
def test_metrics(tmp_path, content: bytes) -> None:
    run = Run(tmp_path / "run", Config())
    run.metrics.write_bytes(content)
    refused_or_read(lambda: run.rewind(1))
    run.close()


def tensors(folder: Path) -> dict[str, bytes]:
    made = {"layer.weight": torch.arange(6.0).view(2, 3), "layer.bias": torch.zeros(2)}
    save_file(made, folder / "w.safetensors")
    torch.save(made, folder / "w.pth")
    return {name: (folder / name).read_bytes() for name in ("w.safetensors", "w.pth")}


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@fuzz
@given(data=st.data())
def test_weights(tmp_path, name: str, data) -> None:
    whole = tensors(tmp_path)[name]
    (tmp_path / name).write_bytes(changed(whole, data.draw(CHANGES)))
    refused_or_read(lambda: weights.read(tmp_path / name, "RAFT", "a file"))


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "bare pickle"])
@pytest.mark.fault("code in a file of weights")
def test_a_pickle_that_would_run_code_is_refused(tmp_path, zipped: bool, refused) -> None:
    """The payload works where it is let in, so that the refusal means something."""
    marker, path = tmp_path / "ran", tmp_path / "raft.pth"
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists()
    marker.unlink()
    torch.save({"w": Payload(marker)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="does not hold RAFT"):
        weights.read(path, "RAFT", "a file")
    clips = tmp_path / "clips"
    media.write_video(clips / "a.mp4", np.zeros((3, 16, 16, 3), np.uint8), 8)
    refused("bench", "--media", clips, "--out", tmp_path / "out", "--weights", f"raft={path}", "--quiet")
    assert not marker.exists()


def still(suffix: str) -> bytes:
    import cv2

    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return cv2.imencode(suffix, image)[1].tobytes()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp"])
@fuzz
@given(data=st.data())
def test_images(tmp_path, suffix: str, data) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(changed(still(suffix), data.draw(CHANGES)))
    refused_or_read(lambda: media.read_video(path))
    refused_or_read(lambda: media.probe(path))


def test_an_image_that_would_fill_the_memory_is_refused(tmp_path) -> None:
    """A PNG of 30,000 x 30,000 pixels in 3 MB."""
    side = 30_000

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    squeeze = zlib.compressobj(9)
    line = bytes(3 * side + 1)
    body = b"".join(squeeze.compress(line) for _ in range(60)) + squeeze.flush()
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    for read in (media.read_video, media.probe):
        with pytest.raises(UserError, match="900000000 pixels"):
            read(tmp_path / "bomb.png")


def test_a_chunk_that_claims_gigabytes_takes_none(tmp_path) -> None:
    """A PNG whose palette is said to have 4 GB; nothing of it is there."""
    whole = still(".png")
    claimed = whole[:33] + struct.pack(">I", 2**32 - 1) + b"PLTE" + whole[33:]
    (tmp_path / "a.png").write_bytes(claimed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (media.read_video, media.probe):
        with pytest.raises(UserError, match="not a readable image"):
            read(tmp_path / "a.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19


@pytest.mark.parametrize("codec", [media.CODEC, media.LOSSLESS], ids=["mp4", "mkv"])
@fuzz
@given(data=st.data())
def test_videos(tmp_path, codec: media.Codec, data) -> None:
    path = tmp_path / f"a{codec.suffix}"
    frames = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    media.write_video(path, frames, 8, codec)
    path.write_bytes(changed(path.read_bytes(), data.draw(CHANGES)))
    refused_or_read(lambda: media.read_video(path))
    refused_or_read(lambda: media.probe(path))


@pytest.mark.parametrize(("codec", "name"), [(media.CODEC, b"avc1"), (media.LOSSLESS, b"FFV1")])
def test_a_video_of_an_unknown_codec_is_refused(tmp_path, codec: media.Codec, name: bytes) -> None:
    path = tmp_path / f"a{codec.suffix}"
    media.write_video(path, np.zeros((2, 16, 16, 3), np.uint8), 8, codec)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(name, b"z" * len(name)))
    assert path.read_bytes() != whole
    for read in (media.read_video, media.probe):
        with pytest.raises(UserError, match=r"a codec that FFmpeg does not know"):
            read(path)


def test_a_video_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch) -> None:
    media.write_video(tmp_path / "a.mp4", np.zeros((9, 16, 16, 3), np.uint8), 8)
    monkeypatch.setattr(media, "MOST_BYTES", 8 * 16 * 16 * 3)
    with pytest.raises(UserError, match="more than"):
        media.read_video(tmp_path / "a.mp4")


@pytest.fixture
def own_temporary_folder(tmp_path, monkeypatch) -> None:
    """Where a page's clips are recoded."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 80), st.integers(2, 80))  # FFV1 holds no column alone


@pytest.mark.usefixtures("own_temporary_folder")
@settings(fuzz, max_examples=max(5, EXAMPLES // 20))
@example("motion", "open", [(3, 1, 1), (2, 64, 2), (2, 1, 70)], 0, False)
@example("motion", "sprites", [(2, 2, 600), (2, 9, 72), (3, 64, 64)], 255, False)
@example("diversity", "open", [(1, 1, 300), (1, 8, 64), (1, 8, 64)], 7, False)
@given(
    suite=st.sampled_from(["motion", "diversity"]),
    domain=st.sampled_from(["open", "sprites"]),
    shapes=st.lists(SHAPES, min_size=3, max_size=3),
    level=st.integers(0, 255),
    noisy=st.booleans(),
)
def test_pixels_of_any_shape_are_scored_or_missing(tmp_path, suite, domain, shapes, level, noisy) -> None:
    """What can be read is measured and put on a page, or is a sample that is missing; the run goes on."""
    folder = Path(tempfile.mkdtemp())
    (folder / "media").mkdir()
    for i, shape in enumerate(shapes):
        frames = np.random.default_rng(i).integers(0, 256, (*shape, 3)) if noisy else np.full((*shape, 3), level)
        if suite == "diversity":
            media.write_png(folder / "media" / f"x-{i}.png", frames[0].astype(np.uint8))
        else:
            media.write_video(folder / "media" / f"x-{i}.mkv", frames.astype(np.uint8), 8, media.LOSSLESS)
    out = folder / "out"
    refused_or_read(lambda: run_suite(get_suite(suite), [], out, media=[folder / "media"], domain=domain, quiet=True))
    assert (out / "media" / "report.html").is_file()


def test_what_is_written_elsewhere_and_what_hangs_is_seen(tmp_path) -> None:
    """So that the other tests can fail."""
    beside = tmp_path.parent / "beside"
    for write in (
        lambda: beside.write_bytes(b""),
        lambda: os.replace(beside, tmp_path / "a"),
        lambda: (tmp_path / "a").rename(beside),
        lambda: os.symlink(beside, tmp_path.parent / "link"),
        lambda: (tmp_path.parent / "link").unlink(),
        lambda: beside.unlink(),
        lambda: beside.mkdir(),
        lambda: beside.rmdir(),
    ):
        with pytest.raises(AssertionError, match="it writes elsewhere"):
            refused_or_read(write)
    refused_or_read(lambda: (tmp_path / "own").mkdir())
    assert "beside" not in listed(tmp_path.parent)

    def hang() -> None:
        watched.AT_ALL = 1
        refused_or_read(lambda: time.sleep(600))

    child = os.fork()
    if child == 0:
        hang()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
