"""Model folders and checkpoints from outside, whatever they hold: loaded, or refused by a UserError; no code of theirs
runs."""

import enum
import io
import json
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_hostile import CHANGES, EXAMPLES, Payload, changed, fuzz, mangled, twisted
from tiny import wan
from watched import refused_or_read

from pdmd import shard_files
from pdmd import state as states
from pdmd.config import make_config
from pdmd.embeddings import encoder_class
from pdmd.errors import UserError
from pdmd.files import SUMS, write_sums
from pdmd.run import Run
from pdmd.sample import load_model
from pdmd.shard_reader import Reader
from pdmd.teachers import load_teacher

pytestmark = [
    pytest.mark.fault("a hostile model's folder or checkpoint, by hypothesis"),
    pytest.mark.usefixtures("nothing_outside"),
]
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
    described = twisted(json.loads(content)).map(str.encode) | mangled(content) if small else mangled(content)
    replaced(folder / name, data.draw(described))
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
def test_a_network_without_all_its_weights_is_refused(pipeline, tmp_path, part: str) -> None:
    """diffusers would leave them without memory, transformers draw them at random."""
    folder = copied(pipeline, tmp_path / "wan")
    (path,) = (folder / part).glob("*.safetensors")
    tensors = load_file(path)
    gone = sorted(tensors)[0]
    del tensors[gone]
    path.unlink()
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(UserError, match=f"cannot load .*its files lack 1 of its weights: {re.escape(gone)}$"):
        load_model(str(folder))


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
@pytest.mark.fault("code in a model's folder or a checkpoint")
def test_a_pickle_that_would_run_code_is_refused(pipeline, tmp_path, part: str) -> None:
    folder, marker = copied(pipeline, tmp_path / "wan"), tmp_path / "ran"
    (weights,) = (folder / part).glob("*.safetensors")
    name = {"model.safetensors": "pytorch_model.bin"}.get(weights.name, weights.with_suffix(".bin").name)
    weights.unlink()
    torch.save({"w": Payload(marker)}, folder / part / name)
    with pytest.raises(UserError, match="cannot load"):
        load_model(str(folder))
    assert not marker.exists()


@pytest.mark.parametrize("part", ["transformer", "text_encoder", "tokenizer"])
@pytest.mark.parametrize("kept", [False, True], ids=["to sample", "to train"])
@pytest.mark.fault("code in a model's folder or a checkpoint")
def test_code_beside_a_pipeline_is_not_run(pipeline, tmp_path, part: str, kept: bool, monkeypatch) -> None:
    """diffusers loads a class from a file of the folder where it trusts it, and from any module that can be imported;
    to train, prompts' embeddings are kept, and the text encoder is loaded by itself."""
    folder, marker = copied(pipeline, tmp_path / "wan"), tmp_path / "ran"
    (folder / part / "own.py").write_text(f"open({str(marker)!r}, 'w')\n")
    (folder / "own.py").write_text(f"open({str(marker)!r}, 'w')\n")
    monkeypatch.syspath_prepend(folder)
    index = json.loads((pipeline / "model_index.json").read_text())
    replaced(folder / "model_index.json", json.dumps(index | {part: ["own", "Own"]}).encode())
    with pytest.raises(UserError, match=f"its {part} is of no class of diffusers or transformers"):
        load_teacher(str(folder), embeddings=tmp_path / "kept" if kept else None).encode(["a cross"])
    with pytest.raises(UserError, match="no model of transformers"):
        encoder_class(folder / "model_index.json" if part == "text_encoder" else folder / "gone.json")
    assert not marker.exists()


@pytest.mark.fault("code in a model's folder or a checkpoint")
def test_a_pickle_in_a_text_encoder_loaded_by_itself_is_refused(pipeline, tmp_path) -> None:
    folder, marker = copied(pipeline, tmp_path / "wan"), tmp_path / "ran"
    teacher = load_teacher(str(folder), embeddings=tmp_path / "kept")
    (folder / "text_encoder" / "model.safetensors").unlink()
    torch.save({"w": Payload(marker)}, folder / "text_encoder" / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"cannot load .*text_encoder"):
        teacher.encode(["a cross"])
    assert not marker.exists()


CONFIG = make_config("few-step", "mixture", None, ("generator_steps=2", "batch=4", "prompt_count=4", "probe_every=0"))


def begun() -> states.State:
    return states.begin(load_teacher("mixture"), CONFIG, CONFIG.plan())


def shared_out(folder: Path, **settings: object) -> Path:
    """A folder as many processes write one, written by this one; `settings` of its optimiser are replaced."""
    import torch.distributed.checkpoint as dcp

    content = shard_files._content(begun(), True)
    content["expert_optimizer"]["param_groups"][0].update(settings)
    dcp.save(content, checkpoint_id=folder, no_dist=True)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return shared_out(tmp_path_factory.mktemp("checkpoint") / "step-000001", lr=0.25)


def test_a_checkpoint_of_many_processes_loads(checkpoint) -> None:
    state = begun()
    shard_files.load(state, checkpoint)
    assert state.expert.optimizer.param_groups[0]["lr"] == 0.25


class _Early(pickle._Pickler):
    """Writes an enum's member as Pythons 3.11.0 to 3.11.3 do."""

    def reducer_override(self, obj):
        return (getattr, (type(obj), obj.name)) if isinstance(obj, enum.Enum) else NotImplemented


@pytest.mark.fault("code in a model's folder or a checkpoint")
def test_a_checkpoint_of_an_early_python_loads_and_names_nothing_else(checkpoint, tmp_path) -> None:
    import torch.distributed.checkpoint as dcp

    class Named:
        def __reduce__(self):
            return getattr, (type(metadata), "__init__")

    metadata = dcp.FileSystemReader(checkpoint).read_metadata()
    written = io.BytesIO()
    _Early(written).dump(metadata)
    assert b"getattr" in written.getvalue()
    (tmp_path / ".metadata").write_bytes(written.getvalue())
    read = Reader(tmp_path).read_metadata()
    assert read.state_dict_metadata == metadata.state_dict_metadata

    (tmp_path / ".metadata").write_bytes(pickle.dumps(Named()))
    with pytest.raises(ValueError, match=r"names builtins\.getattr"):
        Reader(tmp_path).read_metadata()


@pytest.mark.parametrize("where", ["metadata", "entry"])
@pytest.mark.fault("code in a model's folder or a checkpoint")
def test_a_checkpoint_that_would_run_code_is_refused(checkpoint, tmp_path, where: str, cli, capsys) -> None:
    """torch's own reader runs it, so that the refusal means something."""
    import torch.distributed.checkpoint as dcp

    marker, run = tmp_path / "ran", Run.create(tmp_path / "run", CONFIG)
    run.close()
    folder = run.checkpoints / "step-000001"
    if where == "metadata":
        shutil.copytree(checkpoint, folder)
        (folder / ".metadata").write_bytes(pickle.dumps(Payload(marker)))
        with pytest.raises(Exception):  # noqa: B017, PT011 - it is no metadata, once it has run
            dcp.FileSystemReader(folder).read_metadata()
    else:
        shared_out(folder, lr=Payload(marker))
        dcp.load(shard_files._content(begun(), True), checkpoint_id=folder, no_dist=True)
    assert marker.exists()
    marker.unlink()
    write_sums(folder / SUMS, *sorted(path.name for path in folder.iterdir()))
    assert cli("train", "--resume", "--out", run.folder) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pdmd: ")]
    assert "names pathlib.Path" in line if where == "metadata" else "lr is more than numbers and tensors" in line
    assert not marker.exists()


@loaded
@given(data=st.data())
def test_metadata(checkpoint, tmp_path, data) -> None:
    folder = copied(checkpoint, tmp_path / "step-000001")
    replaced(folder / ".metadata", changed((checkpoint / ".metadata").read_bytes(), data.draw(CHANGES)))
    refused_or_read(lambda: shard_files.load(begun(), folder))


@pytest.mark.fault("code in a model's folder or a checkpoint")
def test_a_checkpoint_names_no_file_elsewhere(checkpoint, tmp_path) -> None:
    import torch.distributed.checkpoint as dcp

    metadata = dcp.FileSystemReader(checkpoint).read_metadata()
    for place in metadata.storage_data.values():
        place.relative_path = f"../{place.relative_path}"
    (tmp_path / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(ValueError, match="not beside it"):
        Reader(tmp_path).read_metadata()
