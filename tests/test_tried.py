"""The table of `nox -s torture`: what was tried is counted, what was not fails it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import tried

TESTS = """
import pytest
from hypothesis import given, settings, strategies as st
from tried import tell

pytestmark = pytest.mark.fault("a fault")

@pytest.fixture
def room():
    pytest.skip("no room; make some")

@pytest.fixture
def falls():
    yield
    assert False

@settings(max_examples=7, database=None)
@given(st.integers())
def test_inputs(x): ...

@pytest.mark.fault("another fault")
def test_kills():
    tell(trials=200, where={"saving": 150, "training": 50, "elsewhere": 0})

def test_skipped(room): ...
def test_falls(falls): ...
"""


def test_skips_and_failures_outside_of_a_test_are_told_of(tmp_path):
    (tmp_path / "test_x.py").write_text(TESTS)
    told, here = tmp_path / "told.jsonl", Path(__file__).parent
    env = {**os.environ, "PDMD_TORTURE": str(told), "PYTHONPATH": str(here)}
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-c", os.devnull, "--rootdir", tmp_path, tmp_path]
    subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, timeout=600)
    rows = tried.tests(told.read_text().splitlines())
    assert re.search(
        r"\| another fault \| 200 \| 0 \| 0\.\d \| saving 150, training 50, elsewhere 0 \|", tried.table(rows)
    )
    assert "| a fault | 8 | 1 |" in tried.table(rows)
    assert tried.wanting(rows) == ["test_x: test_skipped: skipped no room; make some", "test_x: test_falls: failed"]
    done = subprocess.run([sys.executable, tried.__file__, told], capture_output=True, text=True)
    assert done.returncode == 1
    assert "no room; make some" in done.stderr


def test_a_test_that_does_not_end_is_a_loss():
    rows = tried.tests([json.dumps({"test": "a", "trials": 5})])
    assert "| a | 5 | 1 | 0.0 |" in tried.table(rows)
    assert tried.wanting(rows) == ["a: has not ended"]
