"""Two results on disk to a verdict: what is refused, what fails a gate, what people and CI get to read."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pdmd import cli
from pdmd.benchmark import compare_report, result
from pdmd.benchmark.accept import accept
from pdmd.benchmark.compare import Comparison, compare
from pdmd.benchmark.gates import FAILED, NOT_MEASURED, PASSED
from pdmd.errors import UserError

N = 60
PROMPT = 'a "red" <circle> | & *moving*\x07 ünd 圆'
CODEC = {"codec": "libx264", "crf": 12}
FLOW_ESTIMATOR = {"name": "dis-1", "opencv": "5.0", "device": "cpu"}


def flow(seed: int, n: int = N) -> dict[str, np.ndarray]:
    """One model's motion results: seeded noise over the prompts' own levels."""
    levels, noise = np.random.default_rng(0), np.random.default_rng(seed)
    level, still = np.exp(0.8 * levels.normal(size=n) - 2.7), levels.random(n) < 0.1
    values = np.where(still, 0, level * np.exp(0.2 * noise.normal(size=n)))
    fidelity = np.clip(np.round(4 * (0.9 + 0.1 * noise.normal(size=n))) / 4, 0, 1)
    return {"fidelity": fidelity, "optical_flow_dis": values, "dynamic_degree_dis": (values > 0.08).astype(float)}


def write(
    folder: Path,
    values: Mapping[str, Sequence[float] | np.ndarray],
    suite: str = "motion",
    change: Callable[[dict[str, Any]], None] = lambda made: None,
    rows: Callable[[list[list[object]]], None] = lambda rows: None,
) -> Path:
    """A result folder with one clip a prompt; `change` edits the result, `rows` the rows of items.csv."""
    folder.mkdir(parents=True)
    n = len(next(iter(values.values())))
    metrics = [
        result.summarise(name, list(map(float, v)), n, f"estimator of {name}", False, {}) for name, v in values.items()
    ]
    generation = {
        "suite": {"name": suite, "version": 1, "seeds": [0], "own_noise": True},
        "model": {"name": folder.name, "steps": 4, "guidance": 1.0},
        "prompts": {"file": "p.jsonl", "version": 1, "sha256": "ab" * 32, "domain": "sprites", "n": n},
        "media": {"fps": "8", "frames": None, "video": CODEC, "image": "PNG", "batch_size": 8},
    }
    provenance = {"created": "2026-11-21", "git": {"commit": "c" * 40, "changed": False}, "flow": FLOW_ESTIMATOR}
    made = result.Result(1, suite, folder.name, generation, provenance, n, tuple(metrics), (), {})
    result.save(made, folder / "result.json")
    edited = json.loads((folder / "result.json").read_text())
    change(edited)
    (folder / "result.json").write_text(json.dumps(edited))
    table: list[list[object]] = [
        [f"m{i:03}", i, PROMPT, f"media/m{i:03}-{i}.mp4", 17, 64, 64, "8", *(v[i] for v in values.values()), ""]
        for i in range(n)
    ]
    rows(table)
    with (folder / "items.csv").open("w", encoding="utf-8", newline="") as f:
        head = ["id", "seed", "prompt", "file", "frames", "height", "width", "fps", *values, "problems"]
        csv.writer(f).writerows([head, *table])
    return folder


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return write(tmp_path / "old", flow(1))


def status(comparison: Comparison) -> dict[str, str]:
    return {o.metric: o.status for o in comparison.outcomes}


def verdicts(comparison: Comparison) -> dict[str, str]:
    return {c.metric: c.verdict for c in comparison.changes}


def test_a_result_against_itself_is_the_same(old) -> None:
    made = compare(old, old)
    assert made.passed
    assert verdicts(made) == dict.fromkeys(flow(1), "same within margin")
    assert all(c.change == 0 for c in made.changes)
    assert [c.test.p for c in made.changes] == [1, 1, 1]
    assert status(made)["optical_flow"] == NOT_MEASURED


def test_prompts_are_joined_by_id_whatever_their_order(old, tmp_path) -> None:
    turned = compare(old, write(tmp_path / "new", flow(1), rows=lambda rows: rows.reverse()))
    assert all(m.old == m.new for c in turned.changes for m in c.prompts)
    assert turned.passed


def test_the_change_is_new_against_old_on_the_metric_s_scale(old, tmp_path) -> None:
    values = flow(1)
    values["optical_flow_dis"] = np.where(values["optical_flow_dis"] > 0, values["optical_flow_dis"] + 1, 0)
    made = compare(old, write(tmp_path / "new", values))
    change = next(c for c in made.changes if c.metric == "optical_flow_dis")
    before, after = flow(1)["optical_flow_dis"], values["optical_flow_dis"]
    ratio = np.exp(np.mean(np.log(np.maximum(after, 0.01)) - np.log(np.maximum(before, 0.01))))
    assert change.change == pytest.approx(ratio - 1)
    assert change.interval.low < change.change < change.interval.high
    assert change.interval.low > 0
    assert change.verdict == "better"
    assert change.old == pytest.approx(before.mean())
    assert change.prompts[0].loss == 0  # still clips did not move
    assert change.prompts[-1].loss == min(m.loss for m in change.prompts) < -1
    assert made.passed


def test_less_motion_fails_its_gate_alone(old, tmp_path) -> None:
    values = flow(2)
    values["optical_flow_dis"] = 0.6 * values["optical_flow_dis"]
    made = compare(old, write(tmp_path / "new", values))
    assert not made.passed
    assert status(made)["optical_flow_dis"] == FAILED
    assert status(made)["fidelity"] == PASSED
    gate = next(o for o in made.outcomes if o.metric == "optical_flow_dis")
    assert 0.2 < gate.bound < 0.4
    assert gate.detectable < 0.4
    assert not gate.blind


def test_lower_is_better_turns_the_loss_round(tmp_path) -> None:
    rng = np.random.default_rng(0)
    similar = {"fidelity": np.full(21, 0.9), "dinov3_similarity": rng.beta(12, 4, 21)}
    more = similar | {"dinov3_similarity": similar["dinov3_similarity"] + 0.08}
    first = write(tmp_path / "first", similar, "diversity")
    second = write(tmp_path / "second", more, "diversity")
    assert verdicts(compare(first, second))["dinov3_similarity"] == "worse"
    assert not compare(first, second).passed
    assert verdicts(compare(second, first))["dinov3_similarity"] == "better"
    assert compare(second, first).passed


def test_motion_gained_by_breaking_up_is_no_gain(old, tmp_path) -> None:
    values = flow(2)
    values["optical_flow_dis"] = 3 * values["optical_flow_dis"]
    values["fidelity"] = np.maximum(values["fidelity"] - 0.25, 0)
    gates = tmp_path / "g.toml"
    gates.write_text("[gate.optical_flow_dis]\nmargin = 0.2\n")  # fidelity comes along
    made = compare(old, write(tmp_path / "new", values), gates)
    assert status(made) == {"fidelity": FAILED, "optical_flow_dis": PASSED}
    assert verdicts(made)["optical_flow_dis"] == "undecided"
    assert any("fidelity failed" in note for note in made.notes)


def test_without_fidelity_the_gate_fails_unless_that_is_accepted(tmp_path) -> None:
    values = {"optical_flow_dis": flow(1)["optical_flow_dis"]}
    old, new = write(tmp_path / "a", values), write(tmp_path / "b", values)
    made = compare(old, new)
    assert status(made)["fidelity"] == FAILED
    assert "without_fidelity = true" in made.outcomes[0].reason
    gates = tmp_path / "g.toml"
    gates.write_text("without_fidelity = true\n[gate.optical_flow_dis]\nmargin = 0.2\n")
    assert compare(old, new, gates).passed
    words = ["compare", str(old), str(new)]
    assert CliRunner().invoke(cli.app, words).exit_code == 1
    assert CliRunner().invoke(cli.app, [*words, "--without-fidelity"]).exit_code == 0
    assert status(compare(write(tmp_path / "c", flow(1)), new, gates))["fidelity"] == FAILED  # the old one has it


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (lambda rows: rows.pop(3), f"1 of {N} are missing"),
        (lambda rows: rows.append(rows[3]), "m003-3 comes 2 times"),
        (lambda rows: rows[3].__setitem__(9, "nan"), "m003-3 is 'nan', not a number"),
        (lambda rows: rows[3].__setitem__(9, "inf"), "m003-3 is 'inf', not a number"),
        (lambda rows: rows[3].__setitem__(9, ""), "m003-3 is missing (the video is torn)"),
    ],
)
def test_a_sample_that_is_missing_twice_or_no_number_fails_the_gate(old, tmp_path, rows, says: str) -> None:
    def why(made: dict[str, Any]) -> None:
        made["problems"] = {"m003-3": {"optical_flow_dis": "the video is torn"}}

    new = write(tmp_path / "new", flow(1), change=why, rows=rows)
    for made in (compare(old, new), compare(new, old)):
        gate = next(o for o in made.outcomes if o.metric == "optical_flow_dis")
        assert gate.status == FAILED
        assert says in gate.reason
        assert verdicts(made)["optical_flow_dis"] == "undecided"
    both = compare(new, new)
    assert status(both)["optical_flow_dis"] == FAILED


def test_of_a_sample_in_neither_result_the_gate_knows_too(tmp_path) -> None:
    old = write(tmp_path / "old", flow(1), rows=lambda rows: rows.pop())
    assert status(compare(old, old))["fidelity"] == FAILED


def test_prompt_values_come_from_prompts_csv_where_it_has_them(tmp_path) -> None:
    rng = np.random.default_rng(0)
    values = {"fidelity": np.full(21, 0.5), "lpips": rng.uniform(0.5, 0.6, 21)}
    folders = []
    for name, shift in (("old", 0.0), ("new", -0.1)):
        folder = write(tmp_path / name, values | {"lpips": values["lpips"] + shift}, "diversity")
        with (folder / "items.csv").open("w", encoding="utf-8") as f:  # 8 samples a prompt, which carry no LPIPS
            f.write("id,seed,prompt,file,frames,height,width,fps,problems\n")
            f.writelines(f"m{i:03},{8 * i + s},text,m{i}-{s}.png,1,64,64,,\n" for i in range(21) for s in range(8))
        with (folder / "prompts.csv").open("w", encoding="utf-8") as f:
            f.write("id,fidelity,lpips\n")
            f.writelines(f"m{i:03},0.5,{v + shift!r}\n" for i, v in enumerate(map(float, values["lpips"])))
        folders.append(folder)
    made = compare(*folders)
    change = next(c for c in made.changes if c.metric == "lpips")
    assert change.n == 21
    assert change.change == pytest.approx(-0.1)
    assert change.verdict == "worse"
    assert change.prompts[0].old_file.endswith("-0.png")
    assert status(made)["lpips"] == FAILED


def test_several_samples_of_a_prompt_are_averaged(tmp_path) -> None:
    values = {"fidelity": np.linspace(0, 1, 20), "optical_flow": np.linspace(1, 2, 20)}

    def halve(rows: list[list[object]]) -> None:  # two samples for each of ten prompts
        for i, row in enumerate(rows):
            row[0], row[1] = f"m{i // 2:03}", i

    folder = write(tmp_path / "a", values, rows=halve)
    made = compare(folder, folder)
    assert {c.n for c in made.changes} == {10}
    first = min(made.changes[0].prompts, key=lambda m: m.id)
    assert first.old == pytest.approx(values["fidelity"][:2].mean())


def put(*keys: str) -> Callable[[dict[str, Any], Any], None]:
    """Sets a place in a result to a value."""

    def change(made: dict[str, Any], value: Any) -> None:
        for key in keys[:-1]:
            made = made[int(key)] if key.isdigit() else made[key]
        made[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (put("suite"), "motion-i2v", ("suite", "motion", "motion-i2v")),
        (put("generation", "suite", "version"), 2, ("suite version", "1", "2")),
        (put("generation", "suite", "seeds"), [1], ("seeds", "[0]", "[1]")),
        (put("generation", "suite", "own_noise"), False, ("noise", "true", "false")),
        (put("generation", "prompts", "sha256"), "cd" * 32, ("sha256", "ab" * 32, "cd" * 32)),
        (put("generation", "prompts", "version"), 7, ("prompt version", "1", "7")),
        (put("generation", "prompts", "n"), 10, ("number of prompts", str(N), "10")),
        (put("generation", "media", "fps"), "24", ("frames a second", "8", "24")),
        (put("generation", "media", "video"), {"codec": "vp9"}, ("codec", "libx264", "vp9")),
        (put("provenance", "flow", "opencv"), "4.10", ("opencv of the flow estimator", "5.0", "4.10")),
        (put("provenance", "flow", "sha256"), "aa", ("sha256 of the flow estimator", "null", "aa")),
        (put("metrics", "1", "estimator"), "RAFT", ("estimator of optical_flow_dis", "estimator of", "RAFT")),
        (put("metrics", "1", "direction"), "lower", ("direction of optical_flow_dis", "higher", "lower")),
    ],
)
def test_what_measures_something_else_is_refused_and_both_values_named(old, tmp_path, place, value, says) -> None:
    new = write(tmp_path / "new", flow(1), change=lambda made: place(made, value))
    with pytest.raises(UserError, match="not comparable") as caught:
        compare(old, new)
    assert all(text in str(caught.value) for text in says)
    assert "\n" not in str(caught.value)


def test_other_noise_is_compared_on_demand_and_another_number_of_seeds_never(old, tmp_path) -> None:
    def reseeded(made: dict[str, Any]) -> None:
        made["generation"]["suite"]["seeds"] = [1]

    def shift(rows: list[list[object]]) -> None:
        for row in rows:
            row[1] = int(str(row[1])) + 1

    new = write(tmp_path / "new", flow(1), change=reseeded, rows=shift)
    words = ["compare", str(old), str(new)]
    assert isinstance(CliRunner().invoke(cli.app, words).exception, UserError)
    assert CliRunner().invoke(cli.app, [*words, "--other-noise"]).exit_code == 0

    def of(n: int) -> Path:
        details = put("metrics", "0", "details")
        return write(tmp_path / str(n), flow(1), change=lambda made: details(made, {"seeds_a_prompt": n}))

    one, other = of(7), of(8)
    with pytest.raises(UserError, match=r"number of seeds a prompt of fidelity differs, 7 in .*, 8 in"):
        compare(one, other, same_noise=False)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        (2, "another prompt", "text of prompt m005"),
        (1, 77, "seeds of prompt m005"),
        (4, 33, "33 of 64x64 at 8 fps"),
        (6, 128, "17 of 128x64 at 8 fps"),
        (7, "24", "17 of 64x64 at 24 fps"),
    ],
)
def test_samples_of_another_kind_are_refused_from_their_rows_alone(old, tmp_path, column, value, says: str) -> None:
    new = write(tmp_path / "new", flow(1), rows=lambda rows: rows[5].__setitem__(column, value))
    with pytest.raises(UserError, match="not comparable") as caught:
        compare(old, new)
    assert says in str(caught.value)


def test_models_steps_guidance_batch_size_device_and_commit_may_differ(old, tmp_path) -> None:
    def other(made: dict[str, Any]) -> None:
        made["generation"]["model"] |= {"steps": 40, "guidance": 3.0, "sha256": "f"}
        made["generation"]["media"]["batch_size"] = 4
        made["provenance"] |= {"git": None, "created": "later", "flow": FLOW_ESTIMATOR | {"device": "cuda"}}

    assert compare(old, write(tmp_path / "new", flow(1), change=other)).passed


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "result.json").write_text((f / "result.json").read_text()[:900]), "not whole JSON"),
        (lambda f: edit(f, put("schema_version"), 99), "upgrade pdmd"),
        (lambda f: (f / "result.json").unlink(), "cannot read the result"),
        (lambda f: (f / "items.csv").unlink(), "belongs beside"),
        (lambda f: (f / "items.csv").write_text("id,seed\n"), "no column 'prompt'"),
        (lambda f: (f / "items.csv").write_bytes((f / "items.csv").read_bytes()[:-30]), "cut short"),
        (lambda f: (f / "items.csv").write_bytes(b"\xff\xfe"), "not a whole CSV"),
        (lambda f: edit(f, put("metrics", "0", "value"), 0.123), "not one run's"),
        (lambda f: edit(f, put("generation"), ["model"]), "not a whole result"),
    ],
)
def test_a_spoilt_result_is_one_clear_line(old, tmp_path, spoil, says: str) -> None:
    new = write(tmp_path / "new", flow(2))
    spoil(new)
    for pair in ((old, new), (new, old)):
        with pytest.raises(UserError, match=says) as caught:
            compare(*pair)
        assert "\n" not in str(caught.value)


def edit(folder: Path, place: Callable[[dict[str, Any], Any], None], value: Any) -> None:
    made = json.loads((folder / "result.json").read_text())
    place(made, value)
    (folder / "result.json").write_text(json.dumps(made))


def test_gates_that_do_not_fit_are_one_clear_line(old, tmp_path) -> None:
    def says(text: str) -> str:
        (tmp_path / "g.toml").write_text(text)
        with pytest.raises(UserError) as caught:
            compare(old, old, tmp_path / "g.toml")
        return str(caught.value)

    assert "did you mean 'optical_flow_dis'" in says("[gate.optical_flow_diss]\nmargin = 0.1\n")
    assert "nothing to compare" in says("[gate.lpips]\nmargin = 0.1\noptional = true\n")
    assert "for the suite 'diversity'" in says("suite = 'diversity'\n[gate.fidelity]\nmargin = 0.1\n")
    own = write(tmp_path / "own", flow(1), "mine")
    with pytest.raises(UserError, match="no gates ship for the suite 'mine'"):
        compare(own, own)


def test_markdown_is_inert_and_holds_the_numbers(old, tmp_path) -> None:
    values = flow(2)
    values["optical_flow_dis"] = 0.5 * values["optical_flow_dis"]
    made = compare(old, write(tmp_path / "new*_|", values))
    text = compare_report.markdown(made)
    assert "FAILED: optical" in text.splitlines()[0]
    assert "<circle>" not in text
    assert "*moving*" not in text.replace("\\*", "")
    for change in made.changes:
        assert f"{change.new:.4g}" in text
    assert "same within margin" in text
    assert len(text) < 65536  # what a pull request's comment holds
    widths = {line.count(" | ") for line in text.splitlines() if line.startswith("| ")}
    assert widths <= {3, 5, 6}


def test_junit_is_well_formed_whatever_the_names_hold(old, tmp_path) -> None:
    def why(made: dict[str, Any]) -> None:
        made["problems"] = {"m003-3": {"optical_flow_dis": 'torn at <0> & "1"\x0b\x00'}}

    new = write(tmp_path / "new", flow(1), change=why, rows=lambda rows: rows[3].__setitem__(9, ""))
    root = ET.fromstring(compare_report.junit(compare(old, new)).encode())
    suite = root.find("testsuite")
    assert suite is not None
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("5", "1", "2")
    failure = cases["optical_flow_dis"].find("failure")
    assert failure is not None
    assert 'torn at <0> & "1"\ufffd\ufffd' in failure.get("message", "")
    assert cases["optical_flow"].find("skipped") is not None
    assert cases["fidelity"].find("failure") is None


def test_json_holds_it_all(old, tmp_path) -> None:
    made = compare(old, write(tmp_path / "new", flow(2)))
    row = json.loads(compare_report.as_json(made))
    assert row["passed"] is made.passed
    assert row["changes"][0]["interval"]["low"] == made.changes[0].interval.low
    assert len(row["changes"][0]["prompts"]) == N


def run(*arguments: object) -> tuple[int, str]:
    """`pdmd` as the entry point runs it: exit code and what it printed."""
    done = CliRunner().invoke(cli.app, list(map(str, arguments)), env={"COLUMNS": "80"})
    if isinstance(done.exception, UserError):
        return 2, str(done.exception)
    return done.exit_code, done.output


def test_exit_codes_and_files(old, tmp_path) -> None:
    values = flow(2)
    worse = write(tmp_path / "worse", values | {"fidelity": np.maximum(values["fidelity"] - 0.25, 0)})
    out = [tmp_path / "out" / name for name in ("c.md", "c.xml", "c.json")]
    options = [*zip(("--markdown", "--junit", "--json"), out, strict=True)]
    code, text = run("compare", old, worse / "result.json", *(part for pair in options for part in pair))
    assert code == 1
    assert "FAILED: fidelity" in text
    assert max(map(len, text.splitlines())) <= 80
    assert out[0].read_text().startswith("## motion")
    assert ET.fromstring(out[1].read_bytes()).tag == "testsuites"
    assert json.loads(out[2].read_text())["passed"] is False
    assert run("compare", old, write(tmp_path / "same", flow(2)))[0] == 0
    assert run("compare", old, tmp_path / "nowhere")[0] == 2
    assert run("compare", old, worse, "--accept")[0] == 2
    assert run("compare", old, worse, "--reason", "why")[0] == 2


def test_accept_replaces_the_baseline_and_writes_whose_and_why(old, tmp_path) -> None:
    before = (old / "result.json").read_bytes()
    values = flow(2)
    new = write(tmp_path / "new", values | {"fidelity": np.maximum(values["fidelity"] - 0.25, 0)})
    code, text = run("compare", old, new, "--accept", "--reason", "the renderer changed")
    assert code == 0
    assert "FAILED: fidelity" in text
    accepted = result.load(old / "result.json")
    (entry,) = accepted.provenance["accepted"]
    assert entry["reason"] == "the renderer changed"
    assert entry["replaced"]["model"] == "old"
    assert entry["comparison"] == "gates failed: fidelity"
    assert accepted.metrics == result.load(new / "result.json").metrics
    assert (old / "items.csv").read_bytes() == (new / "items.csv").read_bytes()
    assert verdicts(compare(old, new)) == dict.fromkeys(values, "same within margin")
    assert before != (old / "result.json").read_bytes()


def test_accept_keeps_the_history_and_needs_no_comparable_baseline(old, tmp_path) -> None:
    first = accept(tmp_path / "base", old, "the first")
    assert first.entry["replaced"] is None
    assert first.comparison is None
    second = write(tmp_path / "v2", flow(2), change=lambda made: put("generation", "prompts", "version")(made, 2))
    done = accept(tmp_path / "base", second, "new prompts")
    assert "prompt version differs" in done.entry["comparison"]
    history = result.load(tmp_path / "base" / "result.json").provenance["accepted"]
    assert [entry["reason"] for entry in history] == ["the first", "new prompts"]
    assert compare(tmp_path / "base", second).passed
    with pytest.raises(UserError, match="reason"):
        accept(tmp_path / "base", second, "  ")
    with pytest.raises(UserError, match="is of the suite 'motion'"):
        accept(tmp_path / "base", write(tmp_path / "other", flow(1), "diversity"), "why")
    with pytest.raises(UserError, match="both the baseline"):
        accept(tmp_path / "base", tmp_path / "base", "why")
    (tmp_path / "g.toml").write_text("[gate.fidelity]\n")
    with pytest.raises(UserError, match="margin is missing"):
        accept(tmp_path / "base", second, "why", tmp_path / "g.toml")
    assert [e["reason"] for e in result.load(tmp_path / "base" / "result.json").provenance["accepted"]] == [
        "the first",
        "new prompts",
    ]
