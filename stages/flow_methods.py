"""Methods of optical flow, a row each: another needs its function and its row, both here.

Settings and keys know the methods by their rows, so no library is imported before it works.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING

from models.errors import BadWeights

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from stages.settings import FlowSettings
    from stages.types import Image

    Field = npt.NDArray[np.float32]
    Estimator = Callable[[Image, Image], Field]
    """(2, H, W) x, y px: the point p of the first image lies at p + flow in the second."""

RAFT_STRIDE = 8
RAFT_SIDE = 128
"""shortest side that RAFT accepts"""


def dis(preset: str) -> Estimator:
    """Dense inverse search (Kroeger et al., 2016) on grey images."""
    import cv2

    method = cv2.DISOpticalFlow.create(
        {
            "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
            "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
            "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
        }[preset]
    )

    def estimate(image: Image, other: Image) -> Field:
        height, width = image.shape[:2]
        # on small or narrow images the pyramid of DIS runs out of pixels
        side = max(32, -(-max(height, width) // 8))
        pads = (0, max(0, side - height), 0, max(0, side - width))
        grey = [
            cv2.copyMakeBorder(cv2.cvtColor(i, cv2.COLOR_RGB2GRAY), *pads, cv2.BORDER_REPLICATE)
            for i in (image, other)
        ]
        return method.calc(grey[0], grey[1], None)[:height, :width].transpose(2, 0, 1)

    return estimate


def raft(device: str) -> Estimator:
    """RAFT (Teed and Deng, 2020) with torchvision's weights.

    BadWeights if they are neither on this machine nor to be fetched.
    """
    from torchvision.models.optical_flow import Raft_Large_Weights, raft_large

    try:
        model = raft_large()
        state = Raft_Large_Weights.DEFAULT.get_state_dict(check_hash=True, weights_only=True)
        model.load_state_dict(state)
    except OSError as error:
        raise BadWeights(
            f"flow method 'raft' needs torchvision's weights {Raft_Large_Weights.DEFAULT}, "
            f"which could not be fetched ({error}); use method 'dis' or fetch them first"
        ) from error
    return raft_estimator(model, device)


def raft_estimator(model: Callable[..., object], device: str) -> Estimator:
    """An estimator from a RAFT network."""
    import torch

    network = model.eval().to(device)  # type: ignore[attr-defined]

    def estimate(image: Image, other: Image) -> Field:
        with torch.inference_mode():
            pixels = (torch.from_numpy(i.copy()).to(device) for i in (image, other))
            field: Field = raft_field(network, *pixels).cpu().numpy()
        return field

    return estimate


def raft_field(network: Callable[..., Sequence[Tensor]], image: Tensor, other: Tensor) -> Tensor:
    """Flow (2, H, W) px between two images (H, W, 3) uint8.

    Each side is padded to a multiple of 8, at least 128, as RAFT needs it.
    """
    import torch.nn.functional as F

    height, width = image.shape[:2]
    target = [max(RAFT_SIDE, -(-n // RAFT_STRIDE) * RAFT_STRIDE) for n in (height, width)]

    def padded(pixels: Tensor) -> Tensor:
        x = pixels.permute(2, 0, 1)[None].float() / 127.5 - 1
        return F.pad(x, (0, target[1] - width, 0, target[0] - height), mode="replicate")

    return network(padded(image), padded(other))[-1][0, :, :height, :width]


@cache
def _opencv() -> dict[str, str]:
    import cv2

    return {"opencv": cv2.__version__}


@cache
def _torchvision() -> dict[str, str]:
    return {"torchvision": version("torchvision")}


@dataclass(frozen=True)
class Method:
    """A method of optical flow."""

    make: Callable[[FlowSettings, str], Estimator]
    """an estimator, from settings and the device; it may keep buffers between its calls"""
    libraries: Callable[[], dict[str, str]] = dict
    """name and version of the libraries that its result depends on; they enter the key"""
    on_gpu: bool = False
    """whether it runs on a GPU where there is one"""


METHODS = {
    "dis": Method(lambda settings, device: dis(settings.preset), _opencv),
    "raft": Method(lambda settings, device: raft(device), _torchvision, on_gpu=True),
}
"""by name; docs/extending.md"""
