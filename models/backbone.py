"""N_feat: the feature network at stride 8 (section 3, feature extraction).

ResNet's conv1 to conv4_x with conv4_x at stride 1 and dilated; MobileNetV2's blocks
treated alike, with three depths normalised and joined, because its last layer alone
forgets what a matched part looks like. Two networks may be joined in the same way: what
was learnt for classes and what was learnt for segments distinguish different things.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import mobilenet_v2, resnet18, resnet50, resnet101
from torchvision.ops import FrozenBatchNorm2d

if TYPE_CHECKING:
    from models.config import Architecture

STRIDE = 8
FINE_STRIDE = 4
JOINED = 512
"""channels that two joined networks are reduced to"""
NORMS = {"resnet50": 17.0, "mobilenet_v2": 10.0}
"""length of the features of a cell, of each depth that is joined"""


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
        self.channels = 256 if name == "resnet18" else 1024
        self.fine_source = 64 if name == "resnet18" else 256

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        return self.layer3(self.layer2(fine)), fine


class MobileNetFeatures(nn.Module):
    """features.0 to features.17 at stride 8; depths 6, 13 and 17 normalised and joined."""

    preprocessing = SYMMETRIC
    channels = 32 + 96 + 320
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
                joined.append(F.normalize(x.float(), dim=1) * NORMS["mobilenet_v2"])
        return torch.cat(joined, 1), fine


class JoinedFeatures(nn.Module):
    """ResNet-50 and MobileNetV2 side by side, normalised, joined and reduced to JOINED channels.

    The reduction is linear and orthonormal, so that cosines stay nearly what they are; fit()
    sets it to the principal directions of given frames.
    """

    preprocessing = IMAGENET
    channels = JOINED
    fine_source = 256

    def __init__(self) -> None:
        super().__init__()
        self.resnet50 = ResNetFeatures("resnet50")
        self.mobilenet_v2 = MobileNetFeatures()
        whole = self.resnet50.channels + self.mobilenet_v2.channels
        self.reduce = nn.Conv2d(whole, JOINED, 1, bias=False)
        nn.init.orthogonal_(self.reduce.weight)

    def joined(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features before the reduction (N, 1472, h, w), and ResNet's at 1/4."""
        deep, fine = self.resnet50(x)
        scale, shift = between(IMAGENET, SYMMETRIC)
        other, _ = self.mobilenet_v2(x * scale.to(x) + shift.to(x))
        unit = F.normalize(deep.float(), dim=1) * NORMS["resnet50"]
        return torch.cat((unit, other), 1), fine

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        whole, fine = self.joined(x)
        return self.reduce(whole.to(self.reduce.weight)), fine

    @torch.no_grad()
    def fit(self, frames: Iterable[Tensor]) -> None:
        """Set the reduction from preprocessed frames (1, 3, H, W)."""
        moment = self.reduce.weight.new_zeros((self.reduce.in_channels,) * 2)
        for frame in frames:
            cells = self.joined(frame)[0].flatten(2)[0].float()
            moment = moment + cells @ cells.T
        _, directions = torch.linalg.eigh(moment.double())
        # the largest come last; a sign that does not hang on the library
        chosen = directions.flip(1)[:, :JOINED].T
        chosen = chosen * chosen.sum(1, keepdim=True).sign()
        self.reduce.weight.copy_(chosen[..., None, None])


def between(given: Preprocessing, wanted: Preprocessing) -> tuple[Tensor, Tensor]:
    """Scale and shift (1, 3, 1, 1) that lead from one preprocessing to another."""
    mean, std, other_mean, other_std = (
        torch.tensor(values).view(1, 3, 1, 1)
        for values in (given.mean, given.std, wanted.mean, wanted.std)
    )
    return std / other_std, (mean - other_mean) / other_std


@dataclass(frozen=True)
class Row:
    """A feature network: how it is made, and how many channels f then has."""

    make: Callable[[], nn.Module]
    channels: int


BACKBONES = {
    "resnet101": Row(lambda: ResNetFeatures("resnet101"), 1024),
    "resnet50": Row(lambda: ResNetFeatures("resnet50"), 1024),
    "resnet18": Row(lambda: ResNetFeatures("resnet18"), 256),
    "mobilenet_v2": Row(MobileNetFeatures, MobileNetFeatures.channels),
    "resnet50+mobilenet_v2": Row(JoinedFeatures, JOINED),
}


class Backbone(nn.Module):
    """A feature network with its preprocessing.

    Attributes: `name`, `channels` (C), `stride` (8), `preprocessing`.
    """

    stride = STRIDE

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.body = BACKBONES[name].make()
        self.channels = BACKBONES[name].channels
        self.fine_source: int = self.body.fine_source  # type: ignore[assignment]
        self.preprocessing: Preprocessing = self.body.preprocessing  # type: ignore[assignment]

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


class NativeDepthwise(nn.Conv2d):
    """A depthwise convolution by PyTorch's own kernel in place of cuDNN's."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.backends.cudnn.flags(enabled=False):
            return super().forward(x)


def leave_cudnn(module: nn.Module) -> None:
    """Have dilated depthwise convolutions run without cuDNN, in place; for inference on a GPU."""
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d) and conv.groups > 1 and conv.dilation != (1, 1):
            conv.__class__ = NativeDepthwise


def pin_kernels(module: nn.Module) -> None:
    """Have float32 1x1 convolutions round alike whatever the number of threads, in place.

    On a CPU PyTorch gives them to oneDNN only if it has two threads or more, unless they
    are dilated, which means nothing to a single cell. For inference only.
    """
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d) and conv.kernel_size == (1, 1):
            conv.dilation = (2, 2)
