"""The embedded world: truth, grammar, reader."""

import io

import av
import numpy as np
import pytest

from pdmd.sprites import grammar, reader, world


def scene(seed: int, **stated: str) -> world.Scene:
    return world.sample_scene(np.random.default_rng(seed), stated)


def h264(video: np.ndarray, crf: int) -> np.ndarray:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=world.FPS, options={"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = world.SIZE, world.SIZE, "yuv420p"
        for frame in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    buffer.seek(0)
    with av.open(buffer) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_objects_stay_inside_the_frame_and_apart():
    for seed in range(300):
        s = scene(seed)
        cover = world.masks(s)
        area = np.pi * s.radius**2
        assert np.allclose(cover.sum((2, 3)), area, rtol=0.03), s.factors
        assert cover.sum(1).max() <= 1.0 + 1e-6


def test_stated_factors_hold_and_open_ones_are_uniform():
    drawn = [scene(seed, colour="red", motion="left") for seed in range(600)]
    assert {s.factors["colour"] for s in drawn} == {"red"}
    assert all(s.track[-1, 0, 0] < s.track[0, 0, 0] for s in drawn)
    for name in ("shape", "ground", "speed", "count"):
        shares = np.unique([s.factors[name] for s in drawn], return_counts=True)[1] / len(drawn)
        assert len(shares) == len(world.FACTORS[name])
        assert abs(shares - 1 / len(shares)).max() < 0.08


def test_true_flow_moves_the_first_frames_pixels_onto_the_second():
    s = scene(3, motion="right", speed="quickly", count="one", shape="square")
    flow, masks = world.true_flow(s), world.masks(s)
    inside = masks[0, 0] > 0.5
    assert np.allclose(flow[0][inside], s.track[1, 0] - s.track[0, 0], atol=1e-5)
    assert np.all(flow[0][~inside] == 0)
    assert 1.85 <= np.linalg.norm(flow[0][inside], axis=-1).mean() <= 2.05


def test_speeds_and_sizes_do_not_touch():
    for bounds in (world.SIZES, world.SPEEDS):
        (_, below), (above, _) = bounds.values()
        assert below < above


def test_the_reader_s_mean_flow_is_the_true_one():
    for seed in range(8):
        s = scene(seed)
        true = np.linalg.norm(world.true_flow(s), axis=-1).mean()
        assert reader.mean_flow(reader.read(world.render(s))) == pytest.approx(true, rel=0.05, abs=1e-3)
    assert reader.mean_flow(reader.read(np.full((world.FRAMES, 64, 64, 3), 128, np.uint8))) is None


@pytest.mark.parametrize("stated", [{"colour": "pink"}, {"hue": "red"}, {"motion": "still", "speed": "slowly"}])
def test_impossible_scenes_are_refused(stated):
    with pytest.raises(ValueError, match=r"the world has no|no speed"):
        scene(0, **stated)
    with pytest.raises(ValueError, match=r"the world has no|no speed"):
        grammar.prompt(stated)


def test_prompts_and_factors_are_one_to_one():
    rng = np.random.default_rng(0)
    for seed in range(500):
        factors = scene(seed).factors
        stated = {k: v for k, v in factors.items() if v is not None and rng.random() < 0.6}
        assert grammar.parse(grammar.prompt(stated)) == stated


@pytest.mark.parametrize("text", ["a pink circle", "circle a", "two circle", "a red", "a circle at sand"])
def test_other_texts_are_no_prompts(text):
    with pytest.raises(ValueError, match="the embedded world"):
        grammar.parse(text)


def test_training_never_sees_held_out_prompts():
    texts = grammar.training_prompts(2000, seed=0, image=False) + grammar.training_prompts(500, seed=0, image=True)
    assert not any(map(grammar.held_out, texts))
    words = [
        grammar.prompt({"colour": c, "shape": s, "ground": g})
        for c in world.COLOURS
        for s in world.FACTORS["shape"]
        for g in world.GROUNDS
    ]
    assert 0.05 < np.mean([grammar.held_out(w) for w in words]) < 0.25


def test_image_prompts_state_no_motion():
    for text in grammar.training_prompts(300, seed=1, image=True):
        assert not {"motion", "speed"} & set(grammar.parse(text))


@pytest.mark.parametrize(("crf", "least"), [(None, 0.99), (18, 0.97), (23, 0.97)])
def test_reader_recovers_the_factors(crf, least):
    right = []
    for seed in range(60):
        s = scene(1000 + seed)
        video = world.render(s)
        read = reader.read(video if crf is None else h264(video, crf))
        right += [read.factors[name] == value for name, value in s.factors.items()]
        if crf is None:
            assert np.allclose(read.track, s.track.mean(1), atol=0.6)
    assert np.mean(right) >= least


def test_reader_reads_images():
    scenes = [scene(2000 + seed) for seed in range(60)]
    right = [reader.read(world.render(s, 1)).factors[n] == s.factors[n] for s in scenes for n in world.IMAGE_FACTORS]
    assert np.mean(right) >= 0.99
    assert reader.read(world.render(scenes[0], 1)).factors["motion"] is None


def test_reader_sees_nothing_where_nothing_is():
    noise = np.random.default_rng(0).integers(0, 256, (world.FRAMES, 64, 64, 3)).astype(np.uint8)
    empty = np.repeat(np.clip(world.ground("sand"), 0, 255).astype(np.uint8)[None], world.FRAMES, 0)
    for video in (noise, empty):
        factors = reader.read(video).factors
        assert factors["shape"] is None
        assert factors["motion"] is None
    vanishing = world.render(scene(5))
    vanishing[6:] = vanishing[6:] * 0 + empty[6:]
    assert reader.read(vanishing).factors["motion"] is None


def test_fidelity_is_the_share_of_stated_factors_shown():
    s = scene(7, colour="blue", shape="circle")
    read = reader.read(world.render(s))
    assert reader.fidelity({"colour": "blue", "shape": "circle"}, read) == 1
    assert reader.fidelity({"colour": "red", "shape": "circle"}, read) == 0.5
    assert np.isnan(reader.fidelity({}, read))
    with pytest.raises(ValueError, match="expected uint8"):
        reader.read(np.zeros((3, 32, 32, 3), np.uint8))
