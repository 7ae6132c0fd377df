"""Model folders from outside, whatever they hold: loaded, or refused by a UserError; no code of theirs runs."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_hostile import EXAMPLES, Payload, fuzz, mangled, refused_or_read, twisted
from tiny import wan

from pdmd.errors import UserError
from pdmd.sample import load_model

#: Loading takes its time: fewer of them.
loaded = settings(fuzz, max_examples=max(5, EXAMPLES // 20))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    return wan(tmp_path_factory.mktemp("wan"))


def copied(pipeline: Path, to: Path) -> Path:
    """A copy, of links where nothing is changed."""
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(pipeline, to, copy_function=lambda a, b: Path(b).symlink_to(a)))


def replaced(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(content)


@loaded
@given(data=st.data())
def test_described(pipeline, tmp_path, data) -> None:
    folder = copied(pipeline, tmp_path / "wan")
    names = sorted(path.relative_to(folder) for path in folder.rglob("*.json"))
    name = data.draw(st.sampled_from(names))
    content = (pipeline / name).read_bytes()
    small = len(content) < 10_000
    changed = twisted(json.loads(content)).map(str.encode) | mangled(content) if small else mangled(content)
    replaced(folder / name, data.draw(changed))
    refused_or_read(lambda: load_model(str(folder)))


@loaded
@given(data=st.data())
def test_weights(pipeline, tmp_path, data) -> None:
    folder = copied(pipeline, tmp_path / "wan")
    name = data.draw(st.sampled_from(sorted(path.relative_to(folder) for path in folder.rglob("*.safetensors"))))
    content = (pipeline / name).read_bytes()
    head = 8 + int.from_bytes(content[:8], "little")
    start = data.draw(mangled(content[:head]) | st.just(content[: head // 2]))
    replaced(folder / name, start + content[head:])
    refused_or_read(lambda: load_model(str(folder)))


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_a_pickle_that_would_run_code_is_refused(pipeline, tmp_path, part: str) -> None:
    folder, marker = copied(pipeline, tmp_path / "wan"), tmp_path / "ran"
    (weights,) = (folder / part).glob("*.safetensors")
    name = {"model.safetensors": "pytorch_model.bin"}.get(weights.name, weights.with_suffix(".bin").name)
    weights.unlink()
    torch.save({"w": Payload(marker)}, folder / part / name)
    with pytest.raises(UserError, match="cannot load"):
        load_model(str(folder))
    assert not marker.exists()


def test_code_beside_a_pipeline_is_not_run(pipeline, tmp_path) -> None:
    """diffusers loads a class from a file of the folder where it trusts it."""
    folder, marker = copied(pipeline, tmp_path / "wan"), tmp_path / "ran"
    (folder / "transformer" / "own.py").write_text(f"open({str(marker)!r}, 'w')\n")
    (folder / "own.py").write_text(f"open({str(marker)!r}, 'w')\n")
    index = json.loads((pipeline / "model_index.json").read_text())
    replaced(folder / "model_index.json", json.dumps(index | {"transformer": ["own", "Own"]}).encode())
    with pytest.raises(UserError, match="cannot load"):
        load_model(str(folder))
    assert not marker.exists()
