"""Imports pdmd first, which declares the operators that a CUDA torchvision beside a CPU torch lacks."""

import pdmd  # noqa: F401
