"""The package as its users get it: the wheel's contents, and the wheel at work in an environment of its own."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
#: Folder of the checkout -> where its files lie in the wheel.
FOLDERS = {"pdmd": "pdmd", "benchmark": "pdmd/benchmark", "prompts": "pdmd/prompts"}
NO_SOURCE = shutil.ignore_patterns("__pycache__", "*.py[co]", ".*")


def run(*command: str | Path, cwd: Path, timeout: float = 900) -> str:
    """Run `command` in `cwd` and return its output; where it fails, the test fails and shows the output."""
    env = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "PYTHONHOME"}} | {"HF_HUB_OFFLINE": "1"}
    # Both streams in one file, not a pipe: a child that outlives its parent could hold a pipe open for ever.
    log = cwd / "output.txt"
    with log.open("w") as out:
        code = subprocess.run(
            [*map(str, command)], cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=timeout
        ).returncode
    text = log.read_text(errors="replace")
    assert code == 0, f"{' '.join(map(str, command))}: exit status {code}\n{text}"
    return text


def test_of_the_trainer_only_the_command_line_imports_the_benchmark() -> None:
    def imported(path: Path) -> set[str]:
        """Every name that an import statement of the file mentions."""
        nodes = ast.walk(ast.parse(path.read_text()))
        parts = [(getattr(node, "module", "") or "", node.names) for node in nodes if hasattr(node, "names")]
        named = [(module, getattr(alias, "name", "")) for module, names in parts for alias in names]
        return {part for pair in named for text in pair for part in text.split(".")}

    trainer = ROOT / "pdmd"
    found = {path.relative_to(trainer) for path in trainer.rglob("*.py") if "benchmark" in imported(path)}
    assert found == {Path("cli.py")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources: build/ and *.egg-info of earlier builds cannot leak into it."""
    source = tmp_path_factory.mktemp("source")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=NO_SOURCE)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    out = tmp_path_factory.mktemp("wheel")
    # No build isolation: isolation would fetch setuptools anew; the dev extra brings it.
    pip_wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    run(*pip_wheel, "--wheel-dir", out, source, cwd=source)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an empty environment that the wheel was installed into.

    Installing torch and the rest again would take minutes, so the running interpreter's packages are appended
    to its path. They come after the environment's own, and an editable install there does not reach through:
    Python runs the .pth files of the environment's own site-packages only.
    """
    env = tmp_path_factory.mktemp("empty") / "env"
    venv.create(env, with_pip=False)
    scripts = env / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    work = tmp_path_factory.mktemp("install")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=work)
    own = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=work).strip()
    outer = [p for p in sys.path if Path(p).name in {"site-packages", "dist-packages"}]
    (Path(own) / "outer.pth").write_text("\n".join(outer) + "\n")
    return scripts


def expected_files() -> set[str]:
    """Every file of the three folders, where the wheel should have it."""
    files = set()
    for folder, inside in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            parts = path.relative_to(ROOT / folder).parts
            junk = any(p.startswith(".") or p == "__pycache__" for p in parts) or path.suffix in {".pyc", ".pyo"}
            if path.is_file() and not junk:
                files.add("/".join((inside, *parts)))
    return files


def test_wheel_holds_every_file_and_no_generic_top_level_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    expected = expected_files()
    assert {"pdmd/py.typed", "pdmd/benchmark/__init__.py", "pdmd/prompts/sprites/motion.jsonl"} <= expected
    missing = sorted(expected - names)
    assert not missing, f"not in the wheel, see packages and package-data in pyproject.toml: {missing}"
    (info,) = {name.split("/")[0] for name in names} - {"pdmd"}  # neither benchmark nor prompts nor tests
    assert info.endswith(".dist-info")
    assert f"{info}/licenses/LICENSE" in names
    strange = sorted(n for n in names - expected if not n.startswith(info))
    assert not strange, f"in the wheel, not in the checkout: {strange}"


def test_wheel_stands_before_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = (
        "import importlib.resources as r, json, pdmd, pdmd.benchmark, sys;"
        "prompts = str(r.files('pdmd.prompts') / 'sprites/motion.jsonl');"
        "print(json.dumps([sys.prefix, pdmd.__file__, pdmd.benchmark.__file__, prompts]))"
    )
    prefix, *files = json.loads(run(installed / "python", "-c", code, cwd=tmp_path).splitlines()[-1])
    for file in files:
        assert Path(file).is_file()
        assert Path(file).is_relative_to(prefix), f"{file} is not of the wheel"


def test_doctor_from_another_folder(installed: Path, tmp_path: Path) -> None:
    assert "torch" in run(installed / "pdmd", "doctor", cwd=tmp_path)


def test_short_train_from_another_folder(installed: Path, tmp_path: Path) -> None:
    out = tmp_path / "X"
    train = ["train", "--method", "phased", "--teacher", "mixture", "--set", "generator_steps=4", "--out", out]
    run(installed / "pdmd", *train, cwd=tmp_path)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["step"] > 0] == [1, 2, 3, 4]
    assert (out / "student").is_dir()


def test_constraints_pin_what_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [Requirement(r) for r in [*project["dependencies"], *project["optional-dependencies"]["dev"]]]
    lines = [re.sub(r"\s*#.*", "", line) for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pins = dict(line.split("==") for line in lines if line)
    for requirement in asked:
        pin = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), f"{requirement} excludes the tested {pin}"
    assert "+" not in pins["torch"], "a local version would bind the set to one kind of machine"
