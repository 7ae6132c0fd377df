"""Imports pdmd first, which declares the operators that a CUDA torchvision beside a CPU torch lacks."""

import pytest

import pdmd  # noqa: F401


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    """No test writes into the home of whoever runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PDMD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
