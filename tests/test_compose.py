"""The default training prompts: as composed, all different, none of the benchmark's."""

import json
from importlib.resources import files

from pdmd import compose


def test_the_file_is_what_is_composed_and_no_benchmark_prompt_is_in_it():
    lines = files("pdmd.prompts").joinpath("training.txt").read_text(encoding="utf-8").splitlines()
    assert lines == compose.compose(), "run python -m pdmd.compose"
    assert len(lines) == len(set(lines)) == compose.COUNT
    taken = set()
    for name in ("diversity.jsonl", "motion.jsonl", "motion_i2v.jsonl"):
        for line in files("pdmd.prompts").joinpath(name).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            taken |= {row["text"].lower(), row.get("image", "").lower()}
    assert not taken & {line.lower() for line in lines}
    shared = max(
        len(words(line) & words(text)) / len(words(line) | words(text)) for line in lines[::20] for text in taken
    )
    assert shared < 0.4


def words(text: str) -> set[str]:
    return set(text.lower().strip(".").replace(",", "").split())


def test_every_theme_comes_up_equally_often():
    lines = compose.compose(1000)
    for theme in compose.THEMES:
        assert abs(sum(line.startswith(theme.subjects) for line in lines) - 1000 / len(compose.THEMES)) <= 1
