"""MSK, the mask-propagation baseline of Table 1 (Perazzi et al.), on the same backbone."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbone import Backbone
from models.config import Architecture


def widen(body: nn.Module) -> None:
    """Give the first convolution a fourth input channel, whose weights start at zero."""
    name, first = next((n, m) for n, m in body.named_modules() if isinstance(m, nn.Conv2d))
    wide = copy.deepcopy(first)
    wide.in_channels = 4
    with torch.no_grad():
        wide.weight = nn.Parameter(F.pad(first.weight, (0, 0, 0, 0, 0, 1)))
    parent, _, last = name.rpartition(".")
    setattr(body.get_submodule(parent), last, wide)


class MSK(nn.Module):
    """RGB and the previous mask warped by flow in, this frame's mask out; no recurrence."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        # of two joined networks the first
        self.backbone = Backbone(architecture.backbone.partition("+")[0])
        widen(self.backbone.body)
        width = max(16, architecture.fusion // 4)
        self.conv = nn.Conv2d(self.backbone.channels, width, 3, padding=2, dilation=2)
        self.predict = nn.Conv2d(width, 1, 1)

    def load_backbone(self, state: dict[str, Tensor]) -> None:
        """Start from a three-channel backbone; the mask channel starts at zero.

        Of two joined networks it takes the one that is its own.
        """
        own = self.backbone.state_dict()
        prefix = f"body.{self.backbone.name}."
        parts = {f"body.{n.removeprefix(prefix)}": v for n, v in state.items() if prefix in n}
        for name, value in (parts or state).items():
            if own[name].shape == value.shape:
                own[name] = value
            else:
                own[name] = torch.zeros_like(own[name])
                own[name][:, :3] = value
        self.backbone.load_state_dict(own)

    def forward(self, images: Tensor, mask: Tensor) -> Tensor:
        """images (N, 3, H, W) uint8, warped masks (N, 1, H, W) in 0..1 to logits (N, 1, H, W)."""
        rgb = self.backbone.preprocess(images)
        joined = torch.cat((rgb, mask.to(rgb) * 2 - 1), 1)
        features, _ = self.backbone.body(joined.contiguous(memory_format=torch.channels_last))
        logits = self.predict(F.relu(self.conv(features.to(self.conv.weight.dtype))))
        return F.interpolate(
            logits.float(), size=images.shape[-2:], mode="bilinear", align_corners=False
        )
