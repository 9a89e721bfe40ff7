"""Re-identification: proposals that look like a template become starting points.

Sections 3.1 and 3.3: the templates are the given masks and, from the second iteration
on, confident masks of the tubes; a proposal whose similarity to a template is over rho_reid
is kept as a starting point, with the mask that the mask network sees in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.networks import Networks
from stages.boxmask import cut, object_ids, tight
from stages.seen import BoxMemo, seen
from stages.settings import MatchesSettings
from stages.starts import covered, extent, rank, settled
from stages.types import (
    Box,
    FeatureReader,
    IndexMask,
    Matches,
    Offers,
    ProposalReader,
    StartingPoint,
    Tracklet,
)

VERSION = 6

Array = npt.NDArray[np.float32]
Templates = dict[int, list[Array]]
"""Embeddings (256,) by object."""


@dataclass(frozen=True)
class Candidate:
    """A proposal that is similar enough to a template."""

    object_id: int
    similarity: float
    box: Box


def matches(
    *,
    iteration: int,
    features: FeatureReader,
    proposals: ProposalReader | None,
    first_masks: Mapping[int, IndexMask],
    offers: Offers | None,
    tracklets: Sequence[Tracklet],
    networks: Networks,
    settings: MatchesSettings,
    skip_iou: float,
    masks: BoxMemo,
    vectors: BoxMemo,
) -> Matches:
    """Starting points of one iteration, in propagation order.

    iteration: from 1; only the first returns the given masks. proposals: None retrieves
    nothing (Re-MP alone). first_masks: given masks by frame. offers: boxes that the tubes
    of the last iteration offer as templates. tracklets: accepted so far; what they cover
    (IoU over `skip_iou`) or have settled is left out. masks, vectors: what is known of boxes
    already. Converged if a later iteration finds nothing.
    """
    starts = given_starts(first_masks, networks) if iteration == 1 else []
    added: list[tuple[int, int]] = []
    if proposals is not None:
        gallery, added = templates(features, first_masks, offers, networks, settings, vectors)
        size, done = extent(features), settled(tracklets, len(features))
        for j in range(len(features)):
            found = retrieve(j, proposals, gallery, first_masks, settings)
            wanted = [c for c in found if c.object_id not in done]
            starts += [
                start
                for start in _retrieved(j, features, wanted, networks, masks)
                if not covered(start, tracklets, skip_iou, size)
            ]
    starts.sort(key=rank)
    return Matches(tuple(starts), iteration > 1 and not starts, tuple(added))


def given_starts(first_masks: Mapping[int, IndexMask], networks: Networks) -> list[StartingPoint]:
    """The given masks as starting points of similarity 1."""
    a = networks.architecture
    return [
        StartingPoint(j, i, 1.0, *cut(mask, i, a.margin, a.mask_size), given=True)
        for j, mask in sorted(first_masks.items())
        for i in object_ids(mask)
    ]


def templates(
    features: FeatureReader,
    first_masks: Mapping[int, IndexMask],
    offers: Offers | None,
    networks: Networks,
    settings: MatchesSettings,
    memo: BoxMemo,
) -> tuple[dict[int, Array], list[tuple[int, int]]]:
    """Template embeddings (K, 256) of every object: given masks and confirmed offers.

    Also (frame, object) of the offers among them.
    """

    def embed(j: int, boxes: Sequence[Box]) -> list[Array]:
        return seen(memo, j, boxes, lambda missing: networks.embed(features.coarse(j), missing))

    added: list[tuple[int, int]] = []
    gallery: Templates = {}
    given: set[tuple[int, int]] = set()
    for j, mask in sorted(first_masks.items()):
        ids = object_ids(mask)
        boxes = [tight(mask == i) for i in ids]
        for i, vector in zip(ids, embed(j, boxes), strict=True):
            gallery.setdefault(i, []).append(vector)
            given.add((j, i))
    if offers is not None:
        vectors: dict[int, Array] = {}

        def embed_offer(n: int) -> Array:
            # the offers of one frame together, each frame read at most once
            if n not in vectors:
                here = np.flatnonzero(offers.frames == offers.frames[n])
                rows = embed(int(offers.frames[n]), list(offers.boxes[here]))
                vectors.update(zip(here.tolist(), rows, strict=True))
            return vectors[n]

        added = expand(gallery, offers, given, settings, embed_offer)
    return {i: np.stack(vectors) for i, vectors in sorted(gallery.items())}, added


def expand(
    gallery: Templates,
    offers: Offers,
    given: Set[tuple[int, int]],
    settings: MatchesSettings,
    embed: Callable[[int], Array],
) -> list[tuple[int, int]]:
    """Template expansion (section 3.3): add confirmed offers to `gallery`; their (frame, object).

    The most confident first, and of equal ones the earliest: an offer is added if one of
    its object's templates is as similar as rho_reid, and no template of another object more
    so (a tube may have gone over to another object), at most settings.templates an object and
    at least settings.template_gap frames apart. given: (frame, object) of the given
    masks, which are templates already. embed(n): embedding (256,) of offer n.
    """
    added: dict[int, list[int]] = {i: [] for i in gallery}
    for n in np.lexsort((offers.frames, -offers.confidences)).tolist():
        j, i = int(offers.frames[n]), int(offers.objects[n])
        near = any(abs(j - k) < settings.template_gap for k in added[i])
        if near or (j, i) in given or len(added[i]) >= settings.templates:
            continue
        vector = embed(n)
        alike = {k: max(float(known @ vector) for known in v) for k, v in gallery.items()}
        if alike[i] >= max(settings.rho_reid, *alike.values()):
            gallery[i].append(vector)
            added[i].append(j)
    return [(j, i) for i, frames in sorted(added.items()) for j in sorted(frames)]


def retrieve(
    j: int,
    proposals: ProposalReader,
    gallery: Mapping[int, Array],
    first_masks: Mapping[int, IndexMask],
    settings: MatchesSettings,
) -> list[Candidate]:
    """The best proposal of frame j for each object, where similar enough.

    gallery: templates (K, 256) by object, ascending. A proposal belongs to the object that
    it is most similar to; similarity is the largest cosine to its templates plus the weighted
    evidence. Objects whose mask is given in frame j are left out.
    """
    vectors, boxes = proposals.embeddings(j), proposals.boxes(j)
    if not len(vectors):
        return []
    similarity = np.stack([(vectors @ k.T).max(1) for k in gallery.values()])
    similarity += settings.evidence * proposals.evidence(j).T
    nearest = similarity.argmax(0)
    given = object_ids(first_masks[j]) if j in first_masks else []
    found = []
    for row, i in enumerate(gallery):
        mine = np.flatnonzero((nearest == row) & (similarity[row] > settings.rho_reid))
        if i not in given and len(mine):
            best = mine[similarity[row, mine].argmax()]
            found.append(Candidate(i, float(similarity[row, best]), boxes[best]))
    return found


def _retrieved(
    j: int,
    features: FeatureReader,
    found: Sequence[Candidate],
    networks: Networks,
    memo: BoxMemo,
) -> Iterator[StartingPoint]:
    """Candidates of frame j with their masks; those without a mask are dropped."""
    boxes = [c.box for c in found]
    masks = seen(memo, j, boxes, lambda missing: networks.masks(features.coarse(j), missing))
    for c, mask in zip(found, masks, strict=True):
        if (mask > 127).any():
            yield StartingPoint(j, c.object_id, c.similarity, c.box, mask, given=False)
