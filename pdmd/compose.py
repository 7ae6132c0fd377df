"""The default training prompts of open-domain teachers, composed for this project.

    python -m pdmd.compose

rewrites prompts/training.txt: COUNT different lines. A theme has subjects, what they do, and where; any of them go
together. A third of the lines ends in light or weather, a third in how the camera sees it, a third in neither.
"""

from __future__ import annotations

from importlib.resources import files
from itertools import product
from typing import NamedTuple

import numpy as np

COUNT = 2000


class Theme(NamedTuple):
    subjects: tuple[str, ...]
    actions: tuple[str, ...]
    places: tuple[str, ...]


THEMES = (
    Theme(
        ("A young cook", "An old fisherman", "A street vendor", "A baker in a white apron", "A grandmother"),
        ("kneads a ball of dough", "chops herbs", "ladles soup into bowls", "wipes down a table", "laughs at a joke"),
        (
            "in a narrow kitchen",
            "at a market stall",
            "on a houseboat",
            "behind a shop counter",
            "under a striped awning",
        ),
    ),
    Theme(
        ("A violinist", "A drummer in a red shirt", "A street pianist", "A cellist", "A singer with a guitar"),
        ("plays with closed eyes", "tunes up", "starts a quick dance", "nods to the beat", "takes a slow bow"),
        (
            "on a small stage",
            "in an empty station hall",
            "on a rooftop",
            "beside a fountain",
            "in a wood-panelled room",
        ),
    ),
    Theme(
        ("A carpenter", "A potter", "A watchmaker", "A glassblower", "A blacksmith"),
        (
            "leans over the workbench",
            "turns the piece to the light",
            "sweeps up",
            "reaches for a tool",
            "tests an edge",
        ),
        ("in a dusty workshop", "in a shed by the sea", "in a vaulted cellar", "in front of a window", "in a barn"),
    ),
    Theme(
        (
            "Two children",
            "Two boys in yellow raincoats",
            "Four girls on roller skates",
            "Three friends",
            "Twin sisters",
        ),
        ("chase a paper kite", "jump over puddles", "share an ice cream", "draw with chalk", "run with a small dog"),
        ("in a quiet street", "on a school playground", "along a canal", "in a village square", "across a meadow"),
    ),
    Theme(
        ("A grey wolf", "A red deer", "A brown bear", "A lynx", "A wild boar"),
        (
            "steps out of the trees",
            "lifts its head and listens",
            "drinks",
            "trots past",
            "shakes the water off its coat",
        ),
        ("at the edge of a lake", "in fresh snow", "on a mossy slope", "in a clearing of ferns", "by a fallen trunk"),
    ),
    Theme(
        ("A ginger cat", "A sheepdog", "A white rabbit", "A small terrier", "A black kitten"),
        ("rolls onto its back", "sniffs at a shoe", "leaps onto a wall", "yawns and stretches", "chases its own tail"),
        ("on a kitchen floor", "in a walled garden", "on a sunlit porch", "in a heap of leaves", "beside a stove"),
    ),
    Theme(
        ("A kingfisher", "A barn owl", "A flock of starlings", "A pair of cranes", "A hummingbird"),
        (
            "takes off",
            "hovers for a moment",
            "lands without a sound",
            "turns sharply in the air",
            "preens and looks round",
        ),
        ("over a reed bed", "above a stubble field", "by an old mill", "among red flowers", "in front of dark pines"),
    ),
    Theme(
        ("A sea turtle", "A shoal of silver fish", "A manta ray", "An octopus", "A jellyfish"),
        (
            "glides past",
            "rises towards the surface",
            "sinks out of sight",
            "turns and comes back",
            "drifts with the current",
        ),
        ("over a coral reef", "in a kelp forest", "in clear shallow water", "beneath a pier", "above white sand"),
    ),
    Theme(
        ("A steam train", "A yellow tram", "An old lorry", "A milk float", "A red double-decker bus"),
        ("pulls away", "comes to a halt", "rounds the bend", "climbs the hill", "crosses the bridge"),
        (
            "in a terraced town",
            "through a vineyard valley",
            "along a sea wall",
            "past a row of plane trees",
            "in heavy traffic",
        ),
    ),
    Theme(
        ("A sailing dinghy", "A tugboat", "A rowing eight", "A wooden ferry", "A kayak"),
        ("heels over", "ploughs through the chop", "glides to the jetty", "turns into the wind", "leaves a long wake"),
        (
            "on a mountain lake",
            "in a busy harbour",
            "on a wide brown river",
            "off a rocky coast",
            "between two islands",
        ),
    ),
    Theme(
        ("A cyclist", "A marathon runner", "A figure skater", "A climber", "A skateboarder"),
        ("speeds up", "slips and catches the balance", "takes a sharp turn", "stops to breathe", "throws both arms up"),
        (
            "on a concrete ramp",
            "in an indoor hall",
            "on a forest track",
            "at the foot of a cliff",
            "in front of a small crowd",
        ),
    ),
    Theme(
        ("A waterfall", "A mountain stream", "A geyser", "A breaking wave", "A tidal pool"),
        ("throws up spray", "swells and falls back", "foams over the stones", "glitters", "carries a branch along"),
        ("in a basalt gorge", "among tall ferns", "on a black beach", "below a glacier", "in a canyon of red rock"),
    ),
    Theme(
        ("A field of barley", "An old oak", "A row of poplars", "A bank of poppies", "A willow"),
        (
            "sways in the wind",
            "sheds its last leaves",
            "bends under a gust",
            "stands quite still",
            "trembles in light rain",
        ),
        ("beside a country lane", "on a round hill", "by a pond", "behind a stone wall", "on the edge of a village"),
    ),
    Theme(
        ("A robot arm", "A printing press", "A loom", "A crane", "A conveyor belt"),
        (
            "starts up with a jolt",
            "runs at full speed",
            "slows to a stop",
            "lifts its load",
            "repeats one short movement",
        ),
        (
            "in a bright factory hall",
            "in a museum of industry",
            "on a building site",
            "behind safety glass",
            "in a dockyard",
        ),
    ),
    Theme(
        ("A bowl of noodles", "A pot of tea", "A stack of pancakes", "A basket of warm bread", "A dish of baked figs"),
        ("steams", "is set down", "is turned slowly", "is shared out by two hands", "waits to be eaten"),
        ("on a marble counter", "on a checked cloth", "on a wooden tray", "at a window table", "among candles"),
    ),
    Theme(
        ("A crowd", "A brass band", "A wedding party", "A line of dancers", "A group of pilgrims"),
        (
            "moves slowly forward",
            "breaks into applause",
            "turns a corner",
            "waves flags",
            "parts to let a cart through",
        ),
        (
            "in an old town",
            "on a wide boulevard",
            "in a stadium tunnel",
            "across a long bridge",
            "beneath paper lanterns",
        ),
    ),
)
LIGHT = (
    "at first light", "in the blue hour", "in thick fog", "under heavy clouds", "in low winter sun",
    "in a warm drizzle", "while snow falls", "in harsh noon light", "by lamplight", "after a storm",
)  # fmt: skip
CAMERA = (
    "seen from above", "seen from close by", "from a low angle", "in a long, steady shot",
    "as the camera moves slowly nearer", "as the camera follows", "through a wide lens",
    "with the background out of focus", "from across the water",
    "in slow motion",
)  # fmt: skip


def compose(count: int = COUNT, seed: int = 0) -> list[str]:
    """`count` different prompts, as many of each theme as of any other, within one; mixed."""
    rng = np.random.default_rng(seed)
    chosen: list[str] = []
    for i, theme in enumerate(THEMES):
        every = [" ".join(parts) for parts in product(*theme)]
        share = count // len(THEMES) + (i < count % len(THEMES))
        for j, k in enumerate(rng.permutation(len(every))[:share]):
            ending = ("", " " + str(rng.choice(LIGHT)), ", " + str(rng.choice(CAMERA)))[j % 3]
            chosen.append(every[k] + ending + ".")
    return [chosen[k] for k in rng.permutation(len(chosen))]


def main() -> None:
    path = files("pdmd.prompts").joinpath("training.txt")
    path.write_text("\n".join(compose()) + "\n", encoding="utf-8")  # type: ignore[attr-defined]
    print(path)


if __name__ == "__main__":
    main()
