"""The method as a whole: one clip in memory, in the paper's order.

The pipeline runs the same stages as tasks, each with a cached artifact
(docs/design.md, What flows); its masks equal those of segment().
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from models.networks import Networks
from stages.arrays import ArrayFrames, check_masks
from stages.embeddings import embeddings
from stages.evidence import evidence
from stages.features import features
from stages.flow import flow
from stages.frames import resize_masks, working_frames
from stages.matches import Retrieval, given_starts, matches
from stages.msk import msk
from stages.proposals import proposals
from stages.readers import Boxes, Features, Flow, Proposals
from stages.search import search
from stages.seen import SeenBoxes
from stages.settings import (
    FlowSettings,
    FramesSettings,
    MatchesSettings,
    ProposalsSettings,
    SearchSettings,
    TrackletsSettings,
    TubesSettings,
)
from stages.starts import settled
from stages.tracklets import WAVE, Propagated, Propagation, tracklets
from stages.tubes import link, offers, render
from stages.types import FeatureReader, Image, IndexMask, Offers, Tracklet


def segment(
    frames: Sequence[Image],
    masks: Mapping[int, IndexMask],
    networks: Networks,
    settings: Settings,
) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Every object's mask in every frame: (T, H, W) uint8 index masks, uint16 with IDs over 254.

    frames: T of (H, W, 3) uint8 RGB, or an array (T, H, W, 3). masks: (H, W) uint8 by frame from
    0, of the frames in which objects are given: 0 background, 1 to 254 objects, 255 void (all
    uint16: 1 to 65534, and 65535); they are kept to the pixel. networks: from
    models.weights.load(), whose device and precision they have. BadInput (a ValueError) for frames
    or masks that do not fit; BadWeights if the networks lack a module. Features and flow of the
    whole clip are held in memory: about 10 MB a frame
    of 854 x 480.
    """
    pictures = ArrayFrames(frames)
    check_masks(masks, pictures)
    working = working_frames(pictures, settings.frames)
    size, given = working.size, resize_masks(masks, working.size)

    # Section 3: what every frame is seen by, once; MSK sees no features
    fields = Flow(*_columns(flow(working, settings.flow, networks.device.type)))
    if settings.variant.baseline:
        return np.stack([mask for mask, _ in msk(working, fields, masks, networks)])
    maps = Features(*_columns(features(working, networks)))

    # Section 3.2, Re-MP: the given masks are propagated both ways, which may settle all objects
    propagation = Propagation(maps, fields, networks, settings.tracklets, settings.plain)
    starts, wave, memo = given_starts(given, networks), WAVE[networks.device.type], Propagated()
    known = tracklets(propagation, starts, [], iteration=1, wave=wave, memo=memo)
    lost = {s.object_id for s in starts} > settled(known, len(maps))

    # Section 3.1: what Re-ID chooses from, where it is asked to
    looked = SeenBoxes()
    retrieval = Retrieval(
        features=maps,
        first_masks=given,
        networks=networks,
        settings=settings.matches,
        skip_iou=settings.tracklets.skip_iou,
        cuts=settings.tracklets.cuts,
        masks=looked,
        vectors=SeenBoxes(),
    )
    boxes = None
    if settings.variant.retrieval and (lost or not settings.on_demand):
        boxes = _proposals(maps, size, given, networks, settings, looked)

    accepted: list[Tracklet] = []
    offered: dict[int, Offers] = {}
    for k in range(1, settings.iterations + 1):
        # Re-ID: proposals that look like a template become starting points, until none is new
        templates = [offered[i] for i in settings.matches.offering(k)]
        found = matches(retrieval, boxes, templates, accepted, k)
        if found.converged:
            break
        # Section 3.2: they are propagated likewise, and the tracklets linked to tubes
        accepted = tracklets(propagation, found.starts, accepted, iteration=k, wave=wave, memo=memo)
        linking = link(accepted, len(working), size, settings.tubes)
        # Section 3.3: confident masks are offered as templates
        offered[k] = offers(linking, accepted, settings.tubes, size)
    drawn = render(linking, accepted, masks, pictures, size, settings.tubes)
    return np.stack([mask for mask, _ in drawn])


def _proposals(
    maps: FeatureReader,
    size: tuple[int, int],
    given: Mapping[int, IndexMask],
    networks: Networks,
    settings: Settings,
    masks: SeenBoxes,
) -> Proposals:
    """Proposals of the RPN and windows of the search, with Re-ID vectors and evidence."""
    found, _ = _columns(proposals(maps, size, networks, settings.proposals))
    vectors = list(embeddings(maps, found.__getitem__, networks))
    windows, window_vectors = _columns(search(maps, size, given, networks, settings.search))
    boxes = Boxes([found, windows], [vectors, window_vectors])
    values = evidence(maps, boxes, given, networks, masks, plain=settings.plain)
    return Proposals(boxes, list(values))


def _columns(rows: Iterable[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    """The first and the second of every row."""
    kept = list(rows)
    return [one for one, _ in kept], [other for _, other in kept]


class Variant(Protocol):
    """What a variant of the method has (Tables 1 and 3)."""

    @property
    def baseline(self) -> bool: ...

    @property
    def retrieval(self) -> bool: ...


class Settings(Protocol):
    """Settings of all stages, as pipeline.plan.settings.RunSettings has them."""

    @property
    def variant(self) -> Variant: ...

    @property
    def on_demand(self) -> bool: ...

    @property
    def iterations(self) -> int: ...

    @property
    def plain(self) -> bool: ...

    @property
    def frames(self) -> FramesSettings: ...

    @property
    def flow(self) -> FlowSettings: ...

    @property
    def proposals(self) -> ProposalsSettings: ...

    @property
    def search(self) -> SearchSettings: ...

    @property
    def matches(self) -> MatchesSettings: ...

    @property
    def tracklets(self) -> TrackletsSettings: ...

    @property
    def tubes(self) -> TubesSettings: ...
