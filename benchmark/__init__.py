"""The benchmark harness: prompts to media to features to numbers to reports."""

import pdmd  # noqa: F401  torchvision comes after it: see pdmd/_torchvision.py
