"""Re-identification network: a box becomes a unit vector (section 3.1)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from models.config import Architecture
from models.conv5 import conv5


class ReIDNetwork(nn.Module):
    """conv5_x at its own stride 2, global average pooling, one linear layer, L2."""

    def __init__(self, architecture: Architecture, channels: int) -> None:
        super().__init__()
        a = architecture
        self.conv5 = conv5(channels, a.reid_planes, a.blocks, 2, a.norm)
        self.project = nn.Linear(4 * a.reid_planes, a.embedding)

    def forward(self, x: Tensor) -> Tensor:
        """RoI features (N, C, m, m) to embeddings (N, 256), float32, of length 1."""
        pooled = self.conv5(x).mean(dim=(2, 3))
        return F.normalize(self.project(pooled).float(), dim=1)
