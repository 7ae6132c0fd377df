"""What a teacher's folder says of itself beside diffusers' own files: `pdmd.json`."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

from pdmd.errors import UserError, suggest
from pdmd.files import parse_json
from pdmd.teachers import Weights

SETTINGS_FILE = "pdmd.json"


@dataclass(frozen=True)
class Settings:
    """What a family says of its teachers, and a teacher's folder may say otherwise in `pdmd.json`.

    `domain` names the prompts it understands; a clip has `frames` of `height` x `width` pixels at `fps`;
    `guidance` is its weight w, one an expert or one for all; `steps` those of its own sampling, over a grid of
    the time shift `shift`; 0: the scheduler's own; `negative_prompt` is what guidance goes away from.
    """

    domain: str
    frames: int
    fps: int
    height: int
    width: int
    guidance: Weights
    steps: int
    shift: float = 0.0
    negative_prompt: str = ""


def read_settings(folder: Path, settings: Settings) -> Settings:
    """The settings with what the folder's `pdmd.json` replaces. Raises UserError where that is damaged."""
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return settings
    try:
        given = parse_json(path.read_bytes())
    except (OSError, ValueError):
        given = None
    if not isinstance(given, dict):
        raise UserError(f"{path} is damaged: it is no JSON object") from None
    known = [field.name for field in fields(Settings)]
    for key, value in given.items():
        if key not in known:
            raise UserError(f"{path}: no setting {key!r}; {suggest(key, known)}")
        if not isinstance(value, (int, float, list) if key == "guidance" else type(getattr(settings, key))):
            raise UserError(f"{path}: {key} = {value!r} is of the wrong kind")
        numbers, low = value if isinstance(value, list) else [value], key in ("frames", "fps", "height", "width")
        right = all(isinstance(n, (int, float)) and not isinstance(n, bool) and low <= n < 10**6 for n in numbers)
        if not isinstance(value, str) and not (right and numbers):
            raise UserError(f"{path}: {key} = {value!r} is out of range")
    return replace(settings, **given)
