"""N_feat: the feature network at stride 8 (section 3, feature extraction).

ResNet's conv1 to conv4_x with conv4_x at stride 1 and dilated; MobileNetV2's blocks
treated alike, with three depths normalised and joined, because its last layer alone
forgets what a matched part looks like.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import mobilenet_v2, resnet18, resnet50, resnet101
from torchvision.ops import FrozenBatchNorm2d

from models.config import Architecture

STRIDE = 8
FINE_STRIDE = 4
CHANNELS = {"resnet18": 256, "resnet50": 1024, "resnet101": 1024, "mobilenet_v2": 32 + 96 + 320}


@dataclass(frozen=True)
class Preprocessing:
    """Per-channel (x / 255 - mean) / std on RGB."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SYMMETRIC = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def dilate(layer: nn.Module, dilation: int) -> None:
    """Set the strides in `layer` to 1; dilate every 3x3 but the formerly strided one."""
    for conv in layer.modules():
        if not isinstance(conv, nn.Conv2d):
            continue
        if conv.stride != (1, 1):
            conv.stride = (1, 1)
        elif conv.kernel_size == (3, 3):
            conv.dilation = conv.padding = (dilation, dilation)


class ResNetFeatures(nn.Module):
    """conv1 to conv4_x; conv4_x dilated."""

    preprocessing = IMAGENET

    def __init__(self, name: str) -> None:
        super().__init__()
        build = {"resnet18": resnet18, "resnet50": resnet50, "resnet101": resnet101}[name]
        net = build(weights=None, norm_layer=FrozenBatchNorm2d)
        dilate(net.layer3, 2)
        self.conv1, self.bn1, self.relu, self.maxpool = net.conv1, net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2, self.layer3 = net.layer1, net.layer2, net.layer3
        self.channels = CHANNELS[name]
        self.fine_source = 64 if name == "resnet18" else 256

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        return self.layer3(self.layer2(fine)), fine


class MobileNetFeatures(nn.Module):
    """features.0 to features.17 at stride 8; depths 6, 13 and 17 normalised and joined."""

    preprocessing = SYMMETRIC
    channels = CHANNELS["mobilenet_v2"]
    fine_source = 24

    def __init__(self) -> None:
        super().__init__()
        self.features = mobilenet_v2(weights=None, norm_layer=FrozenBatchNorm2d).features[:18]
        for i in range(7, 18):
            dilate(self.features[i], 1 if i == 7 else 2 if i < 15 else 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        joined: list[Tensor] = []
        fine = x
        for i, block in enumerate(self.features):
            x = block(x)
            if i == 3:
                fine = x
            if i in (6, 13, 17):
                # a unit vector of n channels has elements of about 1 / sqrt(n)
                joined.append(F.normalize(x.float(), dim=1) * 10)
        return torch.cat(joined, 1), fine


class Backbone(nn.Module):
    """A feature network with its preprocessing.

    Attributes: `name`, `channels` (C), `stride` (8), `preprocessing`.
    """

    stride = STRIDE

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.body = MobileNetFeatures() if name == "mobilenet_v2" else ResNetFeatures(name)
        self.channels: int = self.body.channels
        self.fine_source: int = self.body.fine_source
        self.preprocessing: Preprocessing = self.body.preprocessing

    def preprocess(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 RGB to the network's range and precision."""
        weight = next(self.body.parameters())
        mean, std = (
            torch.tensor(values, device=images.device).view(1, 3, 1, 1) * 255
            for values in (self.preprocessing.mean, self.preprocessing.std)
        )
        scaled = (images.float() - mean) / std
        return scaled.to(weight.dtype).contiguous(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) uint8 to the features at 1/8 and 1/4."""
        return self.body(self.preprocess(images))


class Trunk(nn.Module):
    """The backbone and the thin stride-4 projection: all that reads pixels (N_feat)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.backbone = Backbone(architecture.backbone)
        self.channels = self.backbone.channels
        self.f4: nn.Conv2d | None = None
        if architecture.refine > 1:
            self.f4 = nn.Conv2d(self.backbone.fine_source, architecture.fine_channels, 1)
            nn.init.orthogonal_(self.f4.weight)
            nn.init.zeros_(self.f4.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features of a batch of frames.

        images: (N, 3, H, W) uint8 RGB.
        Returns f (N, C, ceil(H/8), ceil(W/8)) and, with refinement,
        f4 (N, C4, ceil(H/4), ceil(W/4)).
        """
        coarse, fine = self.backbone(images)
        return coarse, None if self.f4 is None else self.f4(fine)


def batch_norms(module: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """Parents with the names of each convolution and the frozen norm that follows it."""
    for parent in module.modules():
        previous = ""
        for name, child in parent.named_children():
            if isinstance(child, FrozenBatchNorm2d) and previous:
                yield parent, previous, name
            previous = name if isinstance(child, nn.Conv2d) else ""


def fold_batch_norms(module: nn.Module) -> None:
    """Fold every frozen batch norm into the convolution before it, in place.

    For inference only: the result is the same up to rounding and saves a pass over
    every activation.
    """
    for parent, conv_name, norm_name in list(batch_norms(module)):
        conv, norm = getattr(parent, conv_name), getattr(parent, norm_name)
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        with torch.no_grad():
            conv.weight.mul_(scale.view(-1, 1, 1, 1))
            bias = norm.bias - norm.running_mean * scale
            conv.bias = nn.Parameter(bias if conv.bias is None else bias + conv.bias * scale)
        setattr(parent, norm_name, nn.Identity())


def pin_kernels(module: nn.Module) -> None:
    """Have float32 1x1 convolutions round alike whatever the number of threads, in place.

    On a CPU PyTorch gives them to oneDNN only if it has two threads or more, unless they
    are dilated, which means nothing to a single cell. For inference only.
    """
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d) and conv.kernel_size == (1, 1):
            conv.dilation = (2, 2)
