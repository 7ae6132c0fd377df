"""`pdmd doctor`: is this installation able to train and measure?"""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

PACKAGES = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "peft",
    "timm",
    "lpips",
    "opencv-python-headless",
    "av",
)


def check() -> bool:
    """Print one line a check; returns whether all passed."""
    checks: dict[str, Callable[[], str]] = {
        "python": lambda: sys.version.split()[0],
        "packages": _packages,
        "device": _device,
        "torchvision": _torchvision,
        "teacher": _teacher,
        "video": _video,
        "disk": lambda: f"{shutil.disk_usage('.').free / 2**30:.0f} GiB free here",
    }
    passed = True
    for name, run in checks.items():
        try:
            print(f"ok    {name:12} {run()}")
        except Exception as error:  # a doctor reports what it meets, whatever it is
            passed = False
            print(f"FAIL  {name:12} {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    return passed


def _packages() -> str:
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)


def _device() -> str:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join(names) if names else f"CPU, {torch.get_num_threads()} threads"


def _torchvision() -> str:
    import torch
    from torchvision.models.optical_flow import raft_large

    there = torch._C._dispatch_has_kernel("torchvision::nms")
    return f"{raft_large.__name__} imports" + ("" if there else "; its compiled operators do not load; none is needed")


def _teacher() -> str:
    from pdmd.sample import Guided
    from pdmd.teachers import load_teacher

    teacher = load_teacher("sprites")
    pixels = Guided(teacher, steps=2).generate(["a red circle"], [0], 1)
    return f"sprites makes {pixels.shape[2]} x {pixels.shape[3]} pixels; sha256 {teacher.identity()['sha256'][:12]}"


def _video() -> str:
    from pdmd.media import read_video, write_video

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video(path, np.full((5, 64, 64, 3), 128, np.uint8), 8)
        video = read_video(path)
    return f"H.264 written and read, {len(video.frames)} frames at {float(video.fps or 0):g} fps"
