"""What the Wan adapter refuses, and what `pdmd sample` writes; tests/test_families.py has the rest."""

from pathlib import Path

import pytest
from tiny import wan as tiny

from pdmd.errors import UserError
from pdmd.teachers import load_teacher


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny(tmp_path_factory.mktemp("teacher") / "tiny")


def test_shapes_that_do_not_fit_are_one_clear_error(folder, tmp_path):
    tiny(tmp_path / "odd", channels=8)
    with pytest.raises(UserError, match="autoencoder has 4 latent channels, the transformer takes 8"):
        load_teacher(str(tmp_path / "odd"))
    with pytest.raises(UserError, match="makes 1 \\+ 4 k frames"):
        load_teacher(str(folder)).shape(6)


def test_a_damaged_weight_file_is_one_clear_error(folder, tmp_path):
    import shutil

    broken = shutil.copytree(folder, tmp_path / "broken")
    file = next((broken / "transformer").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(UserError, match="cannot load"):
        load_teacher(str(broken))


def test_sample_writes_a_clip_an_image_and_a_sheet(folder, tmp_path, cli):
    """Two seeds of five frames: two rows of five, enlarged four times, two pixels between."""
    from pdmd.media import read_video

    def sample(*args: str) -> None:
        assert cli("sample", folder, "--prompt", "a cross", "--steps", 2, *args) == 0

    sample("--out", str(tmp_path / "clip.mp4"))
    assert read_video(tmp_path / "clip.mp4").frames.shape == (5, 32, 32, 3)
    sample("--frames", "1", "--out", str(tmp_path / "one.png"))
    sample("--seed", "0", "--seed", "1", "--out", str(tmp_path / "sheet.png"))
    cv2 = pytest.importorskip("cv2")
    assert cv2.imread(str(tmp_path / "one.png")).shape == (32, 32, 3)
    assert cv2.imread(str(tmp_path / "sheet.png")).shape == (2 * 128 + 2, 5 * 128 + 4 * 2, 3)
