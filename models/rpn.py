"""Region proposal network: class-agnostic boxes from the shared features (section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import (
    RegionProposalNetwork,
    RPNHead,
    concat_box_prediction_layers,
)

from models.config import Architecture

RATIOS = (0.5, 1.0, 2.0)
BEFORE_NMS = 6000


class Head(RPNHead):
    """torchvision's head behind a 1x1 convolution to its width."""

    def __init__(self, channels: int, width: int, anchors: int) -> None:
        super().__init__(width, anchors)
        self.reduce = nn.Conv2d(channels, width, 1)

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        return super().forward([torch.relu(self.reduce(f)) for f in x])


class RPN(RegionProposalNetwork):
    """torchvision's proposal network over one feature map of stride 8."""

    def __init__(self, architecture: Architecture, channels: int) -> None:
        generator = AnchorGenerator((architecture.anchors,), (RATIOS,))
        super().__init__(
            generator,
            Head(channels, architecture.rpn_width, generator.num_anchors_per_location()[0]),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": BEFORE_NMS, "testing": BEFORE_NMS},
            post_nms_top_n={"training": BEFORE_NMS, "testing": BEFORE_NMS},
            nms_thresh=0.7,
        )

    def outputs(
        self, features: Tensor, size: tuple[int, int]
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Anchors, objectness logits (N, A h w, 1) and deltas, all anchors of each frame."""
        count = len(features)
        logits, deltas = self.head([features])
        anchors = self.anchors(features, size)
        flat_logits, flat_deltas = concat_box_prediction_layers(
            [x.float() for x in logits], [x.float() for x in deltas]
        )
        return anchors, flat_logits.view(count, -1, 1), flat_deltas.view(count, -1, 4)

    def anchors(self, features: Tensor, size: tuple[int, int]) -> list[Tensor]:
        """Anchors (A h w, 4) px of each frame, on the device of features (N, C, h, w)."""
        count = len(features)
        # the generator reads only the shape and the device of its images, and takes its
        # precision from the features: in bf16 anchors would be off by up to 4 px
        images = ImageList(features.new_empty((count, 3, *size)), [size] * count)
        exact = features.new_empty(features.shape, dtype=torch.float32)
        made: list[Tensor] = self.anchor_generator(images, [exact])
        return made

    def propose(
        self, features: Tensor, size: tuple[int, int], *, per_frame: int, nms: float
    ) -> list[tuple[Tensor, Tensor]]:
        """Proposals of a batch of frames of one size.

        features (N, C, h, w), size (H, W) px. Per frame: boxes (M, 4) xyxy px and
        objectness (M,) in 0..1, highest first, M <= per_frame.
        """
        anchors, logits, deltas = self.outputs(features, size)
        boxes = self.box_coder.decode(deltas.reshape(-1, 4), anchors).view(len(features), -1, 4)
        self.nms_thresh = nms
        self._post_nms_top_n = {"training": per_frame, "testing": per_frame}
        kept, scores = self.filter_proposals(
            boxes, logits.reshape(len(features), -1), [size] * len(features), [logits.shape[1]]
        )
        return list(zip(kept, scores, strict=True))
