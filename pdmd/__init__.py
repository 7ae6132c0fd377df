"""Few-step distillation of diffusion models by distribution matching, and its measurement."""

from pdmd._torchvision import declare_missing_operators
from pdmd.version import __version__

declare_missing_operators()

__all__ = ["__version__"]
