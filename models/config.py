"""The architecture: every choice that fixes the shape of a weight."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from models.backbone import BACKBONES
from models.errors import BadWeights

LATER = ("mask_input", "scale_attention")
"""fields that the first weights files do not name"""


CHANNELS = (1, 8192)
SIDES = (1, 256)
BOUNDS = {
    "roi_size": SIDES,
    "margin": (0, 4),
    "fusion": CHANNELS,
    "planes": CHANNELS,
    "blocks": (1, 64),
    "hidden": CHANNELS,
    "reid_planes": CHANNELS,
    "reid_size": SIDES,
    "embedding": CHANNELS,
    "rpn_width": CHANNELS,
    "fine_channels": CHANNELS,
    "memory_keys": CHANNELS,
}
"""least and largest value of what is a number"""
NORMS = ("frozen", "group")


@dataclass(frozen=True)
class Architecture:
    """Shapes of all modules; paper() is the paper's network.

    Where the paper is silent (hidden channels, widths) the values follow its parts:
    conv5_x of ResNet-101 has 512 planes and reads 1024 channels. A weights file that does not
    name a field has its default.
    """

    backbone: str = "resnet101"
    roi_size: int = 28
    """m: side of RoI features, hidden state and recurrent mask (section 3.1)"""
    margin: float = 0.15
    """share of the tight box's side added on each side to make the RoI box"""
    fusion: int = 1024
    """channels after the 1x1 convolution that joins h, x and the mask in N_R"""
    planes: int = 512
    """planes of the conv5_x bottlenecks; they put out four times as many channels"""
    blocks: int = 3
    """bottlenecks in conv5_x"""
    norm: str = "frozen"
    """normalisation inside conv5_x: `frozen` batch norm (pretrained) or `group`"""
    hidden: int = 512
    """d: channels of the hidden state h"""
    reid_planes: int = 512
    reid_size: int = 28
    """side of the RoI features that the Re-ID network reads"""
    reid_shortcut: bool = False
    """the trunk's features, pooled, as a further input of Re-ID's last layer (an extension)"""
    embedding: int = 256
    """length of an embedding (section 3.1)"""
    rpn_width: int = 512
    anchors: tuple[int, ...] = (32, 64, 128, 256, 512)
    """anchor sides in px; ratios are 1:2, 1:1 and 2:1"""
    refine: int = 1
    """factor of the refinement inside N_O: 1 is off (the paper), 2 or 4"""
    fine_channels: int = 32
    """channels of the thin stride-4 features that refinement reads"""
    memory: bool = False
    """appearance memory of the starting frame as a further input of N_R (an extension)"""
    memory_keys: int = 128
    mask_input: bool = True
    """the warped mask as a further input of N_R; False: equation (1) as printed"""
    scale_attention: bool = True
    """attention times m * m, so that its mean is 1; False: the softmax alone (section 3.2)"""

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise BadWeights(f"backbone = {self.backbone!r}: must be one of {', '.join(BACKBONES)}")
        if self.refine not in (1, 2, 4):
            raise BadWeights(f"refine = {self.refine}: must be 1, 2 or 4")
        if self.norm not in NORMS:
            raise BadWeights(f"norm = {self.norm!r}: must be one of {', '.join(NORMS)}")
        for name, (low, high) in BOUNDS.items():
            if not low <= getattr(self, name) <= high:
                raise BadWeights(f"{name} = {getattr(self, name)}: must be {low} to {high}")
        object.__setattr__(self, "anchors", tuple(self.anchors))
        if (
            not self.anchors
            or len(self.anchors) > 32
            or not all(1 <= a <= 8192 for a in self.anchors)
        ):
            raise BadWeights("anchors: must be 1 to 32 sides of 1 to 8192 px")

    @property
    def mask_size(self) -> int:
        """s: side of every stored box mask."""
        return self.roi_size * self.refine

    @classmethod
    def paper(cls) -> Architecture:
        """The network of the paper, on ResNet-101: equations (1) and (2) as printed."""
        return cls(mask_input=False, scale_attention=False)

    @classmethod
    def compact(cls, backbone: str = "mobilenet_v2") -> Architecture:
        """The shipped model: the same classes, smaller, with all extensions."""
        return cls(
            backbone=backbone,
            margin=0.25,
            fusion=256,
            planes=64,
            norm="group",
            hidden=256,
            reid_planes=64,
            reid_size=14,
            reid_shortcut=True,
            rpn_width=128,
            refine=2,
            fine_channels=24,
            memory=True,
        )

    @classmethod
    def base(cls) -> Architecture:
        """A larger model, of which no weights are shipped: two trunks, heads twice as wide."""
        wide = cls.compact("resnet50+mobilenet_v2")
        return replace(wide, fusion=512, planes=128, rpn_width=256)

    @classmethod
    def tiny(cls) -> Architecture:
        """For tests: every part present, everything narrow."""
        return cls(
            backbone="resnet18",
            roi_size=8,
            fusion=16,
            planes=8,
            blocks=1,
            norm="group",
            hidden=16,
            reid_planes=8,
            reid_size=8,
            reid_shortcut=True,
            embedding=256,
            rpn_width=16,
            anchors=(16, 32, 64),
            refine=2,
            fine_channels=8,
            memory=True,
            memory_keys=16,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values.

        LATER fields are left out at their default: the digest of a module depends on them, and
        equal modules of older and newer files must stay equal.
        """
        defaults = {item.name: item.default for item in fields(self)}
        values = {**asdict(self), "anchors": list(self.anchors)}
        return {n: v for n, v in values.items() if n not in LATER or v != defaults[n]}
