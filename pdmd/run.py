"""A run's folder.

config.json      the resolved configuration, and what the run is made of: versions, the checksums of teacher and prompts
metrics.jsonl    one row a generator step; health figures where they were taken; from step 100,000 on in
                 metrics-1.jsonl, from 200,000 on in metrics-2.jsonl, and so on
tensorboard/     the same, as curves, with as many files
checkpoints/     step-N.pt with its checksum, the newest few; of many processes the folders step-N
previews/        contact sheets of the probe as training goes
.lock            held while a process works in the folder
student/         the finished student, a diffusers folder, with its checksums; there only when the run is done
"""

from __future__ import annotations

import dataclasses
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from pdmd import parallel
from pdmd.config import Config, from_dict
from pdmd.errors import UserError
from pdmd.files import LOCK, PART, claim, parse_json, without_path, write_bytes
from pdmd.sample import STUDENT
from pdmd.version import __version__

#: Raised whenever a run folder's layout or meaning changes.
VERSION = 1
#: Whose versions a run notes: another one may make other roundings.
LIBRARIES = ("torch", "diffusers", "peft", "numpy")
#: Steps that a file of metrics, and of curves, holds.
STEPS = 100_000


class Run:
    """One folder; `create` and `reopen` are the ways in. Until `close` it is this process's alone; of the processes of
    one run the first has it, and the others write nothing."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder, self.config = folder, config
        self.checkpoints = folder / "checkpoints"
        self.student = folder / STUDENT
        self.metrics = folder / "metrics.jsonl"
        self._board: SummaryWriter | None = None
        self._file = self.metrics  # that the curves are of
        self._claim = claim(folder) if parallel.rank() == 0 else None

    @classmethod
    def create(cls, folder: Path, config: Config) -> Run:
        """A new folder. Raises UserError where one is already there: nothing is overwritten."""
        if parallel.rank() > 0:
            return cls(folder, config)
        taken = UserError(f"{folder} already exists; use --resume to go on, or another --out")
        if folder.exists() and (not folder.is_dir() or any(not _leftover(path) for path in folder.iterdir())):
            raise taken
        run = cls(folder, config)
        if (folder / "config.json").exists():
            raise taken
        run._write({"version": VERSION, "pdmd": __version__, "config": dataclasses.asdict(config)})
        return run

    @classmethod
    def reopen(cls, folder: Path) -> Run:
        """A folder that is there, without what a killed process left half-written. Raises UserError for one that is
        no run, damaged, of another version, or in use."""
        path = folder / "config.json"
        try:
            content = parse_json(path.read_bytes())
            made_by, values = content["version"], content["config"].items()
        except OSError:
            raise UserError(f"{folder} is no run folder: it has no readable config.json") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{path} is damaged; start the run again with another --out") from None
        if made_by != VERSION:
            raise UserError(f"{folder} was made by a pdmd with run version {made_by}, this one reads {VERSION}")
        return cls(folder, from_dict(dict(values), str(path)))

    def hold_to(self, teacher: dict[str, Any], prompts: str) -> list[str]:
        """Note the identity of the run's teacher, the checksum of its prompts and versions in config.json; where they
        are noted already, raise UserError for another teacher or other prompts, and return what to warn of: other
        versions."""
        content = parse_json((self.folder / "config.json").read_bytes())
        versions = {name: version(name) for name in LIBRARIES}
        made_of = {"teacher": without_path(teacher), "prompts": prompts, "versions": versions}
        made_of = json.loads(json.dumps(made_of))
        begun = content.get("made_of")
        if begun is None:
            self._write(content | {"made_of": made_of})
            return []
        for what in ("teacher", "prompts"):
            if begun.get(what) != made_of[what]:
                raise UserError(
                    f"{self.folder} was begun with other {what}, by the checksum in its config.json; bring back what "
                    "has changed, or start the run again with another --out"
                )
        before = begun.get("versions", {})
        return [
            f"begun with {name} {before.get(name)}, this is {now}: the run goes on, but not to the same last bit"
            for name, now in versions.items()
            if before.get(name) != now
        ]

    def _write(self, content: dict[str, Any]) -> None:
        write_bytes(self.folder / "config.json", (json.dumps(content, indent=1) + "\n").encode())

    def rewind(self, step: int) -> None:
        """Drop what was logged after a step, so that a resumed run logs what the uninterrupted one would."""
        if self._claim is None:
            return
        for path in self.folder.glob("metrics*.jsonl"):
            lines = path.read_bytes().splitlines(keepends=True)
            try:
                kept = [line for line in lines if line.endswith(b"\n") and json.loads(line)["step"] <= step]
            except (ValueError, KeyError, TypeError, RecursionError):
                raise UserError(f"{path} is damaged; rename it to go on without what was logged") from None
            if kept or path == self.metrics:
                write_bytes(path, b"".join(kept))
            else:
                path.unlink()
        self._file = self._file_of(step + 1)
        self._board = SummaryWriter(self.folder / "tensorboard", purge_step=step + 1)

    def log(self, step: int, **row: float | int | str) -> None:
        """Append a row to metrics.jsonl and TensorBoard."""
        if self._claim is None:
            return
        file = self._file_of(step)
        with file.open("a", encoding="utf-8") as f:
            f.write(json.dumps({"step": step, **row}) + "\n")
        if self._board and file != self._file:
            self._board.close()
            self._board = None
        if self._board is None:
            self._board, self._file = SummaryWriter(self.folder / "tensorboard"), file
        for name, value in row.items():
            if not isinstance(value, str):
                self._board.add_scalar(name, value, step)

    def _file_of(self, step: int) -> Path:
        """The file of metrics that a step's row is in."""
        return self.metrics.with_name(f"metrics-{step // STEPS}.jsonl") if step >= STEPS else self.metrics

    def preview(self, name: str, pixels: np.ndarray) -> None:
        """A contact sheet of clips uint8 (n, frames, H, W, 3): a row a clip, up to five frames of it."""
        if self._claim is None:
            return
        import cv2

        shown = np.unique(np.linspace(0, pixels.shape[1] - 1, 5).round().astype(int))
        sheet = np.concatenate([np.concatenate(list(clip[shown]), axis=1) for clip in pixels], axis=0)
        write_bytes(self.folder / "previews" / f"{name}.png", cv2.imencode(".png", sheet[..., ::-1])[1].tobytes())

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None
        if self._claim is not None:
            self._claim.close()


def _leftover(path: Path) -> bool:
    """Whether this is all that a process killed in its first moment leaves."""
    return path.name == LOCK or path.match(PART)


def new_folder(config: Config, root: Path = Path("runs")) -> Path:
    """runs/TEACHER-METHOD, or with the first free number behind it."""
    base = f"{Path(config.teacher).name}-{config.method}"
    names = [base, *(f"{base}-{i}" for i in range(2, 10000))]
    return next(root / name for name in names if not (root / name).exists())


def newest_finished(root: Path = Path("runs")) -> Path | None:
    """The finished run that was finished last."""
    found = [path.parent for path in root.glob(f"*/{STUDENT}") if (path / "student.json").is_file()]
    return max(found, key=lambda p: (p / STUDENT / "student.json").stat().st_mtime, default=None)
