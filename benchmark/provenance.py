"""Where a result comes from: versions, machine, commit, command."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "pdmd",
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "timm",
    "lpips",
    "numpy",
    "scipy",
    "opencv-python-headless",
    "av",
)


def command(*more: str) -> str:
    """The command line of this process, and `more` of it, for a shell."""
    program = Path(sys.argv[0]).name
    return shlex.join([*(("python", "-m", "pdmd") if program == "__main__.py" else (program,)), *sys.argv[1:], *more])


def record() -> dict[str, Any]:
    """What every result states of the run that made it."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": git_commit(),
    }


def git_commit() -> dict[str, Any] | None:
    """The commit of the checkout that this very file is tracked in, and whether it was changed since, but for
    reports/, which commands write and none but a baseline's comparison reads; None for an installed package."""
    here = Path(__file__).resolve()
    tracked = _git(here.parent, "ls-files", "--error-unmatch", here.name)
    commit = _git(here.parent, "rev-parse", "HEAD")
    if not tracked or not commit:
        return None
    changed = _git(here.parent, "status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)reports")
    return {"commit": commit, "changed": bool(changed)}


def commit_text() -> str:
    """That commit for a report: its SHA, and whether there were changes; "none yet" for an installed package."""
    git = git_commit()
    return git["commit"] + " with changes" * git["changed"] if git else "none yet"


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
