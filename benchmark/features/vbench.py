"""Dynamic degree by VBench's own class, the second implementation beside pdmd.benchmark.metrics.

Nothing of it is rewritten: VBench decodes the file (OpenCV), keeps its frames, runs its copy of RAFT and decides.
What differs from ours, of VBench 0.1.5:

- Sides are never upscaled, so between 121 and 127 pixels (padded to 128, the least that its correlation pyramid
  bears) the scores differ from ours. At 120 or less every score is NaN, which VBench reads as static (with two
  frames: as dynamic); here, as everywhere, NaN is an error.
- The threshold is 6 min(H, W) / 256 at any frame rate. Some revisions of its public repository multiply it by
  max(1, 8 / fps); the released package does not, and neither do we.

VBench's requirements contradict ours (numpy < 2, transformers 4.33), so it is installed without them: INSTALL.
"""

from __future__ import annotations

import io
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Before decord, which VBench imports: decord shows all later libraries its zlib of 2005, with which an OpenCV
# that is loaded afterwards reads no PNG.
import cv2  # noqa: F401
import torch

from pdmd.errors import UserError

from .. import metrics
from .raft import from_raft_names, load_weights

INSTALL = "pip install --no-deps vbench==0.1.5 decord==0.6.0 easydict==1.14"


class VBench:
    """vbench.dynamic_degree.DynamicDegree on a file of RAFT weights in either layout.

    Raises UserError where the package is missing, or for weights that are not RAFT-large.
    """

    def __init__(self, weights: Path, device: str = "cpu") -> None:
        try:
            from easydict import EasyDict
            from vbench.dynamic_degree import RAFT, DynamicDegree
        except ImportError as error:
            raise UserError(f"VBench cannot be imported ({error}); get it by {INSTALL}") from None

        class Recording(DynamicDegree):
            """Keeps the scores, of which DynamicDegree returns the verdict alone."""

            def check_move(self, score_list: list[float]) -> bool:
                self.scores = score_list
                return super().check_move(score_list)

        held, self.training = load_weights(weights)
        self.weights, self.digest, self.device = held.path, held.sha256, device
        options = {"small": False, "mixed_precision": False, "alternate_corr": False}
        with torch.device("meta"):
            names = list(RAFT(EasyDict(options)).state_dict())
        file = io.BytesIO()
        torch.save(to_raft_names(held.tensors, names), file)
        file.seek(0)
        with torch.random.fork_rng(devices=[]):  # it draws initial weights before it reads the file
            self.reference = Recording(EasyDict(options, model=file), torch.device(device))

    def label(self) -> str:
        name = "C_T_V1" if self.training == "C_T_V1" else f"weights {self.digest[:8]}"
        return f"VBench {version('vbench')} DynamicDegree, RAFT-large {name}"

    def provenance(self) -> dict[str, Any]:
        return {
            "name": "vbench.dynamic_degree.DynamicDegree",
            "package": version("vbench"),
            "weights": str(self.weights),
            "sha256": self.digest,
            "training": self.training,
            "device": self.device,
        }

    def dynamic(self, path: Path) -> metrics.Dynamic:
        """VBench's verdict on a video file, or on a folder of frames, all of which it keeps.

        Raises ValueError where it reads no frame, and where a score is NaN.
        """
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")  # it calls PyTorch in old ways
            if path.is_file() and path.suffix != ".mp4":  # VBench goes by the name; OpenCV does not
                link = Path(folder, "video.mp4")
                link.symlink_to(path.resolve())
                path = link
            try:
                dynamic = self.reference.infer(str(path))
            except AssertionError:
                raise ValueError(f"VBench reads no frame of {path}") from None
        scores, limits = self.reference.scores, self.reference.params
        if any(score != score for score in scores):
            raise ValueError("VBench's dynamic degree is nan, as for every side of 120 pixels or less")
        return metrics.Dynamic(dynamic, tuple(scores), limits["thres"], len(scores) + 1, limits["count_num"])


def to_raft_names(state: dict[str, torch.Tensor], names: list[str]) -> dict[str, torch.Tensor]:
    """The tensors of a state dict under torchvision's names, under those of `names`, princeton-vl/RAFT's."""
    ours = {name: from_raft_names({name.replace(".norm3.", ".downsample.1."): torch.empty(0)}) for name in names}
    return {name: state[next(iter(renamed))] for name, renamed in ours.items()}
