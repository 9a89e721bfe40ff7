"""Mask network of the Re-ID module: the main instance in a box (section 3.1)."""

from __future__ import annotations

from torch import Tensor, nn

from models.config import Architecture
from models.conv5 import conv5


class MaskNetwork(nn.Module):
    """conv5_x with its stride decreased to 1, then one convolution to one class."""

    def __init__(self, architecture: Architecture, channels: int) -> None:
        super().__init__()
        a = architecture
        self.conv5 = conv5(channels, a.planes, a.blocks, 1, a.norm)
        self.predict = nn.Conv2d(4 * a.planes, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """RoI features of tight boxes (N, C, m, m) to logits (N, 1, m, m)."""
        return self.predict(self.conv5(x)).float()
