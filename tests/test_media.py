"""Media round trips: exact fps, quality, bad files."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from PIL import ExifTags, Image

from pdmd import media
from pdmd.errors import UserError
from pdmd.sprites import world


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return world.render(world.sample_scene(np.random.default_rng(0)))


@pytest.mark.parametrize(("fps", "exact"), [(8, Fraction(8)), (23.976, Fraction(24000, 1001)), (12.5, Fraction(25, 2))])
def test_a_video_keeps_frames_size_fps_and_quality(clip, tmp_path, fps: float, exact: Fraction) -> None:
    media.write_video(tmp_path / "a.mp4", clip, fps)
    read = media.read_video(tmp_path / "a.mp4")
    assert read.fps == exact
    assert read.frames.shape == clip.shape
    luma = (read.frames.astype(float) - clip) @ (0.299, 0.587, 0.114)
    assert np.mean(luma**2) < 255**2 / 10**4  # 40 dB; chroma is halved in size and worse
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_the_same_frames_give_the_same_bytes(tmp_path) -> None:
    """Of this clip x264 has several encodings where it may use its AVX-512 kernels."""
    frames, made = world.render(world.sample_scene(np.random.default_rng(2))), set()
    for i in range(20):
        media.write_video(tmp_path / f"{i}.mp4", frames, 8)
        made.add((tmp_path / f"{i}.mp4").read_bytes())
    assert len(made) == 1


def test_png_is_lossless_and_one_frame(clip, tmp_path) -> None:
    media.write_png(tmp_path / "a.png", clip[0])
    read = media.read_video(tmp_path / "a.png")
    np.testing.assert_array_equal(read.frames, clip[:1])
    assert read.fps is None


def test_bad_media_are_one_clear_line(clip, tmp_path) -> None:
    media.write_video(tmp_path / "a.mp4", clip, 8)
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:1000])
    (tmp_path / "text.png").write_text("no picture")
    for name, says in (
        ("cut.mp4", "not a readable video"),
        ("text.png", "not a readable image"),
        ("none.mp4", "not there"),
    ):
        with pytest.raises(UserError, match=says):
            media.read_video(tmp_path / name)
    with pytest.raises(UserError, match="even sides"):
        media.write_video(tmp_path / "odd.mp4", clip[:, :63], 8)


def test_contact_sheet_takes_first_to_last_frame(clip) -> None:
    sheet = media.contact_sheet([clip, clip], columns=3, gap=2)
    assert sheet.shape == (2 * 64 + 2, 3 * 64 + 4, 3)
    np.testing.assert_array_equal(sheet[:64, :64], clip[0])
    np.testing.assert_array_equal(sheet[66:, -64:], clip[-1])


def test_an_image_of_any_kind_becomes_upright_rgb_of_8_bits(tmp_path) -> None:
    rng = np.random.default_rng(0)
    grey, colour = rng.integers(0, 2**16, (12, 8), dtype=np.uint16), rng.integers(0, 256, (12, 8, 4), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(media.read_video(tmp_path / "grey.png").frames[0], np.stack([grey >> 8] * 3, axis=-1))
    Image.fromarray(colour).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(media.read_video(tmp_path / "rgba.png").frames[0], colour[..., :3])
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6  # a quarter turn to the right shows it upright
    Image.fromarray(colour[..., :3]).save(tmp_path / "turned.png", exif=turned)
    np.testing.assert_array_equal(media.read_video(tmp_path / "turned.png").frames[0], np.rot90(colour[..., :3], -1))
    for suffix in (".bmp", ".tif", ".webp"):
        Image.fromarray(colour[..., :3]).save(tmp_path / f"a{suffix}", lossless=True)
        np.testing.assert_array_equal(media.read_video(tmp_path / f"a{suffix}").frames[0], colour[..., :3])
    Image.fromarray(colour[..., :3]).save(
        tmp_path / "two.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))]
    )
    assert media.read_video(tmp_path / "two.jpg").frames.shape == (1, 12, 8, 3)


@pytest.mark.parametrize(
    ("height", "width", "wrong"),
    [(7, 8, "a side under 8"), (8, 65, "one side over 8 times the other"), (40, 32, "more than 0 million pixels")],
)
def test_a_picture_of_a_size_that_is_not_read_is_refused(height, width, wrong, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(media, "MOST_IN_IMAGE", 1000)
    monkeypatch.setattr(media, "MOST_IN_FRAME", 1000)
    frames = np.zeros((2, height, width, 3), np.uint8)
    media.write_png(tmp_path / "a.png", frames[0])
    media.write_video(tmp_path / "a.mkv", frames, 8, media.LOSSLESS)
    for name in ("a.png", "a.mkv"):
        with pytest.raises(UserError, match=f"is refused: it is {width} x {height}, {wrong}"):
            media.read_video(tmp_path / name)
