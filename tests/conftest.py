"""Imports pdmd first, which declares the operators that a CUDA torchvision beside a CPU torch lacks."""

import functools
import subprocess
from collections.abc import Callable

import pytest
import watched
from tried import tell

import pdmd  # noqa: F401


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    """No test writes into the home of whoever runs it."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("PDMD_CACHE", str(folder))
        yield folder


TRIALS = pytest.StashKey[int]()  # how many inputs hypothesis has tried a test with


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Counts the inputs that hypothesis tries, by the place that it keeps for such wrappers."""
    handle = getattr(getattr(item, "obj", None), "hypothesis", None)
    if handle is None:
        return (yield)
    inner = handle.inner_test

    @functools.wraps(inner)
    def counted(*args, **kwargs):
        item.stash[TRIALS] = item.stash.get(TRIALS, 0) + 1
        return inner(*args, **kwargs)

    handle.inner_test = counted
    try:
        return (yield)
    finally:
        handle.inner_test = inner


def pytest_runtest_makereport(item, call):
    """What a test tried, how it ended and how long it took, to $PDMD_TORTURE (tried.py); also of one that is skipped or
    fails before it begins, or after it has ended."""
    if call.when != "call" and not call.excinfo:
        return
    skipped = call.excinfo and call.excinfo.errisinstance(pytest.skip.Exception)
    row = {"outcome": "skipped" if skipped else "failed" if call.excinfo else "passed", "when": call.when}
    if skipped:
        row["reason"] = str(call.excinfo.value)
    if call.when == "call":
        row["seconds"] = call.duration
    if marker := item.get_closest_marker("fault"):
        row["fault"] = marker.args[0]
    if TRIALS in item.stash:
        row["trials"] = item.stash[TRIALS]
    tell(f"{item.path.stem}: {item.name}", **row)


@pytest.fixture
def cli(tmp_path, monkeypatch) -> Callable[..., int]:
    """Runs the command line, in this test's folder, and returns its exit code."""
    from pdmd.cli import main

    def run(*words: object) -> int:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", ["pdmd", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0)

    return run


@pytest.fixture
def refused(tmp_path, cli, capfd) -> Callable[..., str]:
    """Runs the command line, in this test's folder, on words that it must refuse in one line, with exit code 2 and
    nothing left behind; returns the line."""

    def run(*words: object) -> str:
        before = sorted(tmp_path.rglob("*"))
        capfd.readouterr()
        code = cli(*words)
        out, err = capfd.readouterr()
        assert code == 2, out + err
        (line,) = err.splitlines()
        assert line.startswith("pdmd: ")
        assert sorted(tmp_path.rglob("*")) == before
        return line

    return run


@pytest.fixture
def nothing_outside(tmp_path, cache):
    """What the test reads (`watched.refused_or_read`) writes into the test's own folder alone, or into the cache; not
    beside it either, where "../x" is."""
    before = watched.listed(tmp_path.parent)
    watched.folders[:] = [tmp_path.resolve(), cache.resolve()]
    yield
    watched.folders.clear()
    assert watched.listed(tmp_path.parent) == before


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 MB of its own, in memory. Skips where this process may mount none."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this process may not mount a disk; run it as root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
