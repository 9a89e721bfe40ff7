"""Rules that several stages apply to starting points: their order and the skip rule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from models.backbone import STRIDE
from stages.boxmask import iou
from stages.settled import throughout
from stages.types import FeatureReader, StartingPoint, Tracklet


def rank(start: StartingPoint) -> tuple[bool, float, int, int]:
    """Sorting key of propagation and linking (section 3.2).

    Given masks first, then descending similarity; ties by frame, then by object.
    """
    return not start.given, -start.similarity, start.frame, start.object_id


def covered(
    start: StartingPoint,
    tracklets: Iterable[Tracklet],
    skip_iou: float,
    size: tuple[int, int],
) -> bool:
    """Whether a tracklet of the same object already holds this mask in this frame.

    It does if the IoU of the masks is over `skip_iou` (section 3.2: such a starting point
    is skipped). size: (H, W) px.
    """
    for tracklet in tracklets:
        if tracklet.start.object_id == start.object_id and tracklet.covers(start.frame):
            k = start.frame - tracklet.first
            other = tracklet.boxes[k], tracklet.masks[k]
            if iou(start.box, start.mask, *other, size) > skip_iou:
                return True
    return False


def settled(tracklets: Sequence[Tracklet], frames: int) -> set[int]:
    """Objects whose further starting points need not be propagated (stages.settled)."""
    given = (t for t in tracklets if t.start.given)
    spans = ((t.start.object_id, range(t.first, t.first + len(t.masks))) for t in given)
    return throughout(spans, frames)


def extent(features: FeatureReader) -> tuple[int, int]:
    """(H, W) px that the features span: the frame's size rounded up to their stride.

    The stages that apply the skip rule know no more of the frame's size.
    """
    height, width = features.coarse(0).shape[-2:]
    return height * STRIDE, width * STRIDE
