"""Re-identification network: a box becomes a unit vector (section 3.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import geometry
from models.backbone import STRIDE
from models.config import Architecture
from models.conv5 import conv5

SPREAD = 0.3
"""standard deviation of the window's weights at first, in sides of the box"""


class WindowPooling(nn.Module):
    """A weighted mean over the cells of a RoI with learnt weights, at first high in the middle."""

    def __init__(self, size: int) -> None:
        super().__init__()
        place = (torch.arange(size) + 0.5) / size - 0.5
        distance = place[:, None] ** 2 + place**2
        self.score = nn.Parameter(-distance / (2 * SPREAD**2))

    def weights(self) -> Tensor:
        """(m, m), of sum 1."""
        return torch.softmax(self.score.float().flatten(), 0).reshape(self.score.shape)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, m, m) to (N, C)."""
        return x.flatten(2).float() @ self.weights().flatten()


class ReIDNetwork(nn.Module):
    """conv5_x at its own stride 2, global average pooling, one linear layer, L2.

    With the shortcut (an extension, off in the paper's configuration) the linear layer also
    reads the trunk's own features, pooled: they distinguish objects before anything is
    learnt, and what conv5_x adds starts from nothing.
    """

    def __init__(self, architecture: Architecture, channels: int) -> None:
        super().__init__()
        a = architecture
        self.conv5 = conv5(channels, a.reid_planes, a.blocks, 2, a.norm)
        self.window: WindowPooling | None = None
        self.conv5_width = width = 4 * a.reid_planes
        self.project = nn.Linear(width + (channels if a.reid_shortcut else 0), a.embedding)
        if a.reid_shortcut:
            self.window = WindowPooling(a.reid_size)
            nn.init.orthogonal_(self.project.weight)
            nn.init.zeros_(self.project.weight[:, :width])
            nn.init.zeros_(self.project.bias)

    def scene(self, f: Tensor) -> Tensor:
        """The features f (B, C, h, w) that RoIs are read from.

        With the shortcut less their mean over the frame: what a whole scene shares distinguishes
        none of its objects.
        """
        return f if self.window is None else f - f.mean((2, 3), keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        """RoI features of scene(f) (N, C, m, m) to embeddings (N, 256), float32, of length 1."""
        pooled = self.conv5(x).mean(dim=(2, 3))
        if self.window is not None:
            pooled = torch.cat((pooled, self.window(x).to(pooled)), 1)
        return F.normalize(self.project(pooled).float(), dim=1)

    @property
    def learnt(self) -> bool:
        """Whether conv5_x adds anything to the shortcut, or there is no shortcut."""
        width = self.conv5_width
        return self.window is None or bool(self.project.weight[:, :width].any())

    def shortcut(self, scene: Tensor, boxes: Tensor) -> Tensor:
        """As forward() where not learnt, without RoIs: (N, 256) of boxes (N, 4) px.

        scene (C, h, w) float64. RoIAlign and the window are one weighted sum of the features;
        in float64, so that no result depends on the order of sums.
        """
        assert self.window is not None
        window = self.window.weights()
        rows, columns = geometry.roi_weights(
            boxes.double(), len(window), STRIDE, (scene.shape[1], scene.shape[2])
        )
        weights = rows.transpose(1, 2) @ (window.double() @ columns)
        pooled = weights.flatten(1) @ scene.flatten(1).T
        layer = self.project
        read = layer.weight[:, self.conv5_width :]
        return F.normalize(F.linear(pooled.to(read), read, layer.bias).float(), dim=1)
