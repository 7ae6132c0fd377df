"""A coverage-guided fuzzer over every format that pdmd reads: `python tests/fuzz.py [INPUTS [FORMAT ...]]`.

Each format in a process of its own, by atheris (libFuzzer), from small whole files on: INPUTS inputs, each read or
refused by a UserError in 10 s and 2 GB, nothing written outside of its folder. Exit code 1 where one was not; the input
is kept beside. Coverage is Python's: of what is read by a library in C (images, video, safetensors, arrays) the fuzzer
sees no more than what is said of it, and changes bytes at random.
"""

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

try:
    import atheris
except ImportError:  # the formats alone: test_fuzz.py
    atheris = None

sys.path.insert(0, str(Path(__file__).parent))
GUIDED = ["pdmd", "tomllib", "json", "csv", "zipfile", "PIL"]
with atheris.instrument_imports(include=GUIDED) if atheris else contextlib.nullcontext():
    import test_hostile as hostile
    import watched
    from tried import tell

    from pdmd import media
    from pdmd.benchmark import frechet
    from pdmd.benchmark.features import weights
    from pdmd.benchmark.gates import read_gates
    from pdmd.benchmark.generate import read_manifest, read_record
    from pdmd.benchmark.given import match
    from pdmd.benchmark.sides import read_side
    from pdmd.benchmark.suites import get_suite, parse_prompts
    from pdmd.config import make_config
    from pdmd.errors import UserError
    from pdmd.run import Run
    from pdmd.shard_reader import Reader
    from pdmd.starts import read_pictured, read_prompts
    from pdmd.teachers.settings import Settings, read_settings
    from pdmd.teachers.students import read_student

FOLDER = Path(tempfile.mkdtemp())
OWN = Settings("open", 5, 8, 32, 32, 3.0, 4)


def json_lines(*rows: object) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def clip(codec: media.Codec) -> bytes:
    path = FOLDER / f"clip{codec.suffix}"
    media.write_video(path, np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8), 8, codec)
    return path.read_bytes()


def embedded() -> bytes:
    np.savez(FOLDER / "e.npz", id=["a", "b"], seed=[0, 1], embedding=np.zeros((2, 4), np.float32))
    return (FOLDER / "e.npz").read_bytes()


def result(path: Path) -> None:
    (path.parent / "items.csv").write_bytes(b"id,seed,prompt,file,frames,height,width,fps\na,0,a,a.mp4,5,64,64,8\n")
    read_side(path)


def items(path: Path) -> None:
    (path.parent / "result.json").write_text(json.dumps(RESULT))
    read_side(path.parent)


def metadata() -> bytes:
    import torch.distributed.checkpoint as dcp

    dcp.save({"net": {"w": torch.zeros(2)}, "lr": 0.5}, checkpoint_id=FOLDER / "step", no_dist=True)
    return (FOLDER / "step" / ".metadata").read_bytes()


def read_metadata(path: Path) -> None:
    with contextlib.suppress(ValueError):  # which shard_files.load makes a UserError of
        Reader(path.parent).read_metadata()


def run_folder(path: Path) -> None:
    run = Run.reopen(path.parent)
    run.close()
    run.config.plan()


def log(path: Path) -> None:
    run = Run(path.parent, hostile.Config())
    run.rewind(1)
    run.close()


METRIC = {
    "name": "fidelity", "value": 0.5, "unit": "u", "direction": "higher", "n": 2, "missing": 0, "estimator": "e",
    "interval": {"low": 0.1, "high": 0.9, "level": 0.95, "method": "m"}, "comparable_with_paper": False, "details": {},
}  # fmt: skip
RESULT = {
    "schema_version": 1, "suite": "motion", "model": "m", "generation": hostile.RECORD, "expected": 2, "problems": {},
    "provenance": {"git": None}, "metrics": [METRIC], "missing": [{"metric": "x", "reason": "y", "command": "z"}],
}  # fmt: skip
STUDENT = {"grid": [1.0, 0.5, 0.0], "experts": [0, 1], "teacher": {"sha256": "a"}}
LORA = {"base": "b", "files": ["a.safetensors", "b.safetensors"], "on": [0, 0]}
STILLS = ("png", "jpg", "bmp", "tif", "webp")
SAFETENSORS, PTH = (hostile.tensors(FOLDER)[name] for name in ("w.safetensors", "w.pth"))

#: By format: the file's name, what reads it, and whole files to start from.
FORMATS: dict[str, tuple[str, Callable[[Path], object], list[bytes]]] = {
    "recipe": (
        "r.toml",
        lambda path: make_config(recipe=path),
        [f.read_bytes() for f in hostile.files("pdmd.recipes").iterdir() if f.name.endswith(".toml")],
    ),
    "gates": (
        "g.toml",
        read_gates,
        [f.read_bytes() for f in hostile.files("pdmd.benchmark").joinpath("gates").iterdir()],
    ),
    "prompts": (
        "p.jsonl",
        lambda path: parse_prompts(path.read_bytes(), "p", "open", 0),
        [json_lines(*hostile.PROMPTS)],
    ),
    "training prompts": ("p.jsonl", read_prompts, [json_lines(*hostile.PROMPTS)]),
    "training prompts as text": ("p.txt", read_prompts, [b"a red circle\n\n  two rings\n"]),
    "training prompts with images": ("p.jsonl", read_pictured, [json_lines({"text": "a", "image": "a.png"})]),
    "checkpoint's metadata": (".metadata", read_metadata, [metadata()]),
    "manifest": ("manifest.jsonl", read_manifest, [json_lines(*hostile.ROWS), hostile.OURS.encode()]),
    "manifest of media": (
        "manifest.jsonl",
        lambda path: match(path.parent, get_suite("motion"), None, 3, None),
        [json_lines(*hostile.ROWS)],
    ),
    "record": ("generation.json", lambda path: read_record(path.parent), [json_lines(hostile.RECORD)]),
    "result": ("result.json", result, [json_lines(RESULT)]),
    "items": ("items.csv", items, [b'id,seed,prompt,file,frames,height,width,fps\na,0,"a ""b""",a.mp4,5,64,64,8\n']),
    "embeddings": ("embeddings.npz", lambda path: frechet.load(path.parent), [embedded()]),
    "run": ("config.json", run_folder, [json_lines({"version": 1, "config": {"method": "phased", "lr": 1e-4}})]),
    "metrics": ("metrics.jsonl", log, [json_lines({"step": 0, "x": 1}, {"step": 2, "x": 2})]),
    "student": (
        "student.json",
        lambda path: read_student(path.parent),
        [json_lines(STUDENT), json_lines(STUDENT | {"lora": LORA})],
    ),
    "settings": ("pdmd.json", lambda path: read_settings(path.parent, OWN), [json_lines(hostile.SETTINGS)]),
    "safetensors": ("w.safetensors", lambda path: weights.read(path, "RAFT", "a file"), [SAFETENSORS]),
    "pth": ("w.pth", lambda path: weights.read(path, "RAFT", "a file"), [PTH]),
    **{kind: (f"a.{kind}", media.read_video, [hostile.still(f".{kind}")]) for kind in STILLS},
    "mp4": ("a.mp4", media.read_video, [clip(media.CODEC)]),
    "mkv": ("a.mkv", media.read_video, [clip(media.LOSSLESS)]),
}


def fuzz(name: str, inputs: int) -> None:
    """Never returns: libFuzzer ends the process, with 0 where every input was read or refused."""
    file, read, seeds = FORMATS[name]
    folder, corpus = FOLDER / "input", FOLDER / "corpus"
    for made in (folder, corpus):
        made.mkdir()
    for i, seed in enumerate(seeds):
        (corpus / str(i)).write_bytes(seed)

    def one(content: bytes) -> None:
        (folder / file).write_bytes(content)
        try:
            with watched.writing_inside(), contextlib.suppress(UserError):
                read(folder / file)
        except Exception as error:
            error.add_note(f"the input: {content[:2000]!r}")
            raise

    watched.folders[:] = [folder.resolve()]
    room = 2048 + int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") // 2**20
    limits = [
        f"-runs={inputs}",
        f"-timeout={watched.SECONDS}",
        f"-rss_limit_mb={room}",
        f"-max_len={4 * max(map(len, seeds)) + 4096}",
    ]
    torch.set_num_threads(1)
    atheris.Setup(["fuzz", str(corpus), "-seed=1", "-verbosity=0", f"-artifact_prefix={FOLDER}/", *limits], one)
    atheris.Fuzz()


def main() -> None:
    if not atheris:
        sys.exit("needs atheris: pip install -c constraints.txt atheris")
    inputs, names = int(sys.argv[1]) if len(sys.argv) > 1 else 1000, sys.argv[2:] or list(FORMATS)
    failed = []
    for name in names:
        before, began, child = watched.listed(FOLDER), time.monotonic(), os.fork()
        if child == 0:
            fuzz(name, inputs)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for made in ("input", "corpus"):
            shutil.rmtree(FOLDER / made, ignore_errors=True)
        status = status or int(watched.listed(FOLDER) != before)
        ended = f"failed ({status}), its input in {FOLDER}" if status else "all read or refused"
        print(f"{name}: {inputs} inputs, {time.monotonic() - began:.0f} s, {ended}", flush=True)
        about = {"fault": "a hostile file, by coverage", "outcome": "failed" if status else "passed"}
        tell(f"fuzz: {name}", trials=inputs, seconds=time.monotonic() - began, **about)
        failed += [name] if status else []
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
