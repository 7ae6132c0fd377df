"""The figures that judge a model of the embedded world, on models whose quality is known."""

import numpy as np
import pytest

from pdmd.sprites import grammar, quality, world


class Renderer:
    """The world itself as a model; with `always`, factors that it draws that way whenever they are open."""

    first_frames = False

    def __init__(self, **always: str) -> None:
        self.always, self.identity = always, {"kind": "renderer"}

    def generate(self, prompts, seeds, frames):
        scenes = [
            world.sample_scene(np.random.default_rng(seed), self.always | grammar.parse(text))
            for text, seed in zip(prompts, seeds, strict=True)
        ]
        return np.stack([world.render(scene) for scene in scenes])


@pytest.fixture(scope="module")
def perfect():
    return quality.measure(Renderer(), 80)


def test_the_world_itself_is_faithful_and_spreads_as_chance_has_it(perfect):
    assert perfect["fidelity"]["value"] > 0.99
    for name, figures in perfect["open"].items():
        assert figures["total_variation"] < 3 * figures["chance"], name
        assert figures["shown"].get("illegible", 0) < 0.02, name


def test_a_collapsed_factor_shows_and_the_others_do_not():
    figures = quality.measure(Renderer(colour="red"), 80)
    assert figures["fidelity"]["value"] > 0.99
    assert figures["open"]["colour"]["total_variation"] == pytest.approx(5 / 6, abs=0.02)
    assert figures["open"]["ground"]["total_variation"] < 3 * figures["open"]["ground"]["chance"]


def test_what_stands_still_has_no_speed_to_leave_open():
    assert quality.expected({"motion": "still"}, "speed") is None
    assert quality.expected({"motion": "left"}, "speed") == {"slowly": 0.5, "quickly": 0.5}
    assert quality.expected({}, "speed")["still"] == pytest.approx(1 / 6)
    assert "still" not in quality.expected({"speed": "slowly"}, "motion")
    assert quality.expected({"colour": "red"}, "colour") is None


def test_chance_is_the_variation_of_true_draws():
    p, n, rng = np.array([0.5, 0.3, 0.2]), 40, np.random.default_rng(0)
    drawn = np.abs(rng.multinomial(n, p, size=20000) / n - p).sum(1).mean() / 2
    assert quality.chance_variation(n, list(p)) == pytest.approx(drawn, rel=0.02)


class Still(Renderer):
    """Shows its first frame and nothing else."""

    first_frames = True

    def generate(self, prompts, seeds, frames):
        return np.stack([np.repeat(prompt.image[None], world.FRAMES, 0) for prompt in prompts])


def test_what_the_first_frame_shows_counts_as_stated():
    """A clip that keeps its first frame has every factor of an image, and moves only where nothing should."""
    figures = quality.measure(Still(), 40)
    assert all(figures["fidelity_of"][name]["value"] > 0.95 for name in world.IMAGE_FACTORS)
    assert figures["fidelity_of"]["motion"]["value"] < 0.5
    assert set(figures["open"]) == {"motion", "speed"}
    assert "| colour |" in quality.table(figures)


def test_prompts_are_held_out_and_leave_something_open():
    texts = [text for text, _ in quality.held_out_scenes(40, 0)]
    assert all(grammar.held_out(text) for text in texts)
    assert all(0 < len(grammar.parse(text)) < len(world.FACTORS) for text in texts)


def test_the_table_names_every_factor(perfect):
    text = quality.table(perfect)
    assert all(f"| {name} |" in text for name in world.FACTORS)
