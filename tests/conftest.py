"""Imports pdmd first, which declares the operators that a CUDA torchvision beside a CPU torch lacks."""

import subprocess

import pytest
from tried import tell

import pdmd  # noqa: F401


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    """No test writes into the home of whoever runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PDMD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_runtest_makereport(item, call):
    """What a test tried, how it ended and how long it took, to $PDMD_TORTURE (tried.py)."""
    if call.when == "call":
        fuzz = getattr(getattr(item, "function", None), "_hypothesis_internal_use_settings", None)
        skipped = call.excinfo and call.excinfo.errisinstance(pytest.skip.Exception)
        outcome = "skipped" if skipped else "failed" if call.excinfo else "passed"
        tried = {"inputs": fuzz.max_examples} if fuzz else {}
        tell(item.name, outcome=outcome, seconds=call.duration, **tried)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 MB of its own, in memory. Skips where this process may mount none."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this process may not mount a disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
