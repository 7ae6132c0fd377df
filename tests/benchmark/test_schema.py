"""result.schema.json: every result is of it, and it refuses what `load` refuses."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from pdmd.benchmark import result, stats
from pdmd.benchmark.run import run_suite
from pdmd.benchmark.suites import get_suite
from pdmd.errors import UserError

SCHEMA = json.loads(files("pdmd.benchmark").joinpath("result.schema.json").read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)


@pytest.fixture(scope="module")
def made(make_renderer, tmp_path_factory) -> list[dict[str, Any]]:
    """Results of either suite: of a model, and of its files as media without prompts; one of them is damaged."""
    out, found = tmp_path_factory.mktemp("schema"), []
    for name in ("diversity", "motion"):
        (path,) = run_suite(get_suite(name), [make_renderer(name)], out, limit=2, quiet=True)
        medium = sorted((path.parent / "media").iterdir())[0]
        medium.rename(medium.with_name(f"other{medium.suffix}"))
        given = run_suite(get_suite(name), [], out / "given" / name, limit=1, quiet=True, media=[path.parent / "media"])
        found += [json.loads(p.read_bytes()) for p in (path, *given)]
    return found


def test_the_schema_is_one_and_names_every_field() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["schema_version"] == {"const": result.SCHEMA_VERSION}
    parts = {result.Result: SCHEMA} | {
        cls: SCHEMA["$defs"][cls.__name__.lower()] for cls in (result.Metric, result.Missing, stats.Interval)
    }
    for cls, part in parts.items():
        assert set(part["required"]) == set(part["properties"]) == {f.name for f in fields(cls)}


def test_results_are_of_the_schema(made) -> None:
    for row in made:
        VALIDATOR.validate(row)
    assert any(row["problems"] for row in made)
    assert any(row["missing"] for row in made)
    for path in Path("reports/baselines").glob("*/result.json"):
        VALIDATOR.validate(json.loads(path.read_bytes()))


BROKEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "a part is missing": lambda row: row.pop("problems"),
    "a part too many": lambda row: row.update(extra=1),
    "a newer schema": lambda row: row.update(schema_version=2),
    "a field is missing": lambda row: row["metrics"][0].pop("unit"),
    "a text for a number": lambda row: row["metrics"][0].update(value="0.5"),
    "a huge number": lambda row: row["metrics"][0].update(value=1e13),
    "less than none": lambda row: row["metrics"][0].update(n=-1),
    "no direction": lambda row: row["metrics"][0].update(direction="up"),
    "a torn interval": lambda row: row["metrics"][0]["interval"].pop("low"),
    "a command that is none": lambda row: row["missing"][0].update(command=None),
    "a problem that is no text": lambda row: row["problems"].update(x={"lpips": 3}),
}


@pytest.mark.parametrize("case", BROKEN)
def test_schema_and_reader_refuse_the_same(made, tmp_path, case) -> None:
    row = copy.deepcopy(made[0])
    BROKEN[case](row)
    assert not VALIDATOR.is_valid(row)
    (tmp_path / "result.json").write_text(json.dumps(row))
    with pytest.raises(UserError):
        result.load(tmp_path / "result.json")
