"""conv5_x: the block of ResNet that the paper's three heads are made of (section 3.1)."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torchvision.models.resnet import Bottleneck
from torchvision.ops import FrozenBatchNorm2d


def group_norm(channels: int) -> nn.GroupNorm:
    """Eight channels a group, so that a result never depends on the batch."""
    return nn.GroupNorm(max(1, channels // 8), channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {"frozen": FrozenBatchNorm2d, "group": group_norm}


def conv5(inputs: int, planes: int, blocks: int, stride: int, norm: str) -> nn.Sequential:
    """conv5_x: `blocks` bottlenecks, the first with `stride` and a projection.

    (N, inputs, m, m) to (N, 4 planes, m / stride, m / stride). The names inside are
    torchvision's `layer4`, so pretrained weights load as they are.
    """
    layer = NORMS[norm]
    width = planes * Bottleneck.expansion
    projection = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), layer(width))
    first = Bottleneck(inputs, planes, stride, projection, norm_layer=layer)
    rest = [Bottleneck(width, planes, norm_layer=layer) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)
