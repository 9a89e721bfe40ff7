"""Re-identification: proposals that look like a template become starting points.

Sections 3.1 and 3.3: the templates are the given masks and, from the second iteration
on, confident masks of the tubes; a proposal whose similarity to a template is over rho_reid
is kept as a starting point, with the mask that the mask network sees in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from models.networks import Networks
from stages.boxmask import all_ids, cut, object_ids, tight
from stages.cuts import cuts, shot
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

VERSION = 7

ELSEWHERE = 0.8
"""evidence that a proposal needs besides rho_reid where no given mask is of its shot"""

Array = npt.NDArray[np.float32]
Templates = dict[int, list[Array]]
"""Embeddings (256,) by object."""


@dataclass(frozen=True)
class Candidate:
    """A proposal that is similar enough to a template."""

    object_id: int
    similarity: float
    box: Box


@dataclass(frozen=True)
class Retrieval:
    """What Re-ID of a video works with."""

    features: FeatureReader
    first_masks: Mapping[int, IndexMask]
    """given masks by frame"""
    networks: Networks
    settings: MatchesSettings
    skip_iou: float
    cuts: float
    """both as in stages.settings.TrackletsSettings"""
    masks: BoxMemo
    vectors: BoxMemo
    """what is known of boxes already"""


def matches(
    retrieval: Retrieval,
    proposals: ProposalReader | None,
    offers: Sequence[Offers],
    tracklets: Sequence[Tracklet],
    iteration: int,
) -> Matches:
    """Starting points of one iteration, in propagation order.

    proposals: None retrieves nothing (Re-MP alone). offers: boxes that the tubes of the
    iterations settings.offering() offer as templates. tracklets: accepted so far; what they
    cover (IoU over `skip_iou`) or have settled is left out. iteration: from 1; only the first
    returns the given masks. Converged if a later iteration finds nothing.
    """
    features, first_masks = retrieval.features, retrieval.first_masks
    starts = given_starts(first_masks, retrieval.networks) if iteration == 1 else []
    added: list[tuple[int, int]] = []
    if proposals is not None:
        gallery, added = templates(retrieval, offers)
        size, done = extent(features), settled(tracklets, len(features))
        parted = cuts(features, retrieval.networks, retrieval.cuts)
        for j in range(len(features)):
            strict = elsewhere(j, first_masks, parted)
            found = retrieve(j, proposals, gallery, first_masks, retrieval.settings, strict)
            wanted = [c for c in found if c.object_id not in done]
            starts += [
                start
                for start in _retrieved(retrieval, j, wanted)
                if not covered(start, tracklets, retrieval.skip_iou, size)
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
    retrieval: Retrieval, offers: Sequence[Offers]
) -> tuple[dict[int, Array], list[tuple[int, int]]]:
    """Template embeddings (K, 256) of every object: given masks and confirmed offers.

    offers: of one iteration after the other. Also (frame, object) of the offers among them.
    """
    gallery: Templates = {}
    given: set[tuple[int, int]] = set()
    for j, mask in sorted(retrieval.first_masks.items()):
        ids = object_ids(mask)
        boxes = [tight(mask == i) for i in ids]
        for i, vector in zip(ids, _embed(retrieval, j, boxes), strict=True):
            gallery.setdefault(i, []).append(vector)
            given.add((j, i))
    added: dict[int, list[int]] = {i: [] for i in gallery}
    for part in offers:
        expand(gallery, added, part, given, retrieval.settings, _of_offers(retrieval, part))
    joined = {i: np.stack(vectors) for i, vectors in sorted(gallery.items())}
    return joined, [(j, i) for i, frames in sorted(added.items()) for j in sorted(frames)]


def _embed(retrieval: Retrieval, j: int, boxes: Sequence[Box]) -> list[Array]:
    """Embeddings (256,) of boxes of frame j."""
    f, embed = retrieval.features, retrieval.networks.embed
    return seen(retrieval.vectors, j, boxes, lambda missing: embed(f.coarse(j), missing))


def _of_offers(retrieval: Retrieval, offers: Offers) -> Callable[[int], Array]:
    """The embedding (256,) of offer n; those of one frame together, each frame read once."""

    @cache
    def of_frame(j: int) -> dict[int, Array]:
        here = np.flatnonzero(offers.frames == j)
        rows = _embed(retrieval, j, list(offers.boxes[here]))
        return dict(zip(here.tolist(), rows, strict=True))

    return lambda n: of_frame(int(offers.frames[n]))[n]


def expand(
    gallery: Templates,
    added: Mapping[int, list[int]],
    offers: Offers,
    given: Set[tuple[int, int]],
    settings: MatchesSettings,
    embed: Callable[[int], Array],
) -> None:
    """Template expansion (section 3.3): confirmed offers join `gallery`, their frames `added`.

    The most confident first, and of equal ones the earliest: an offer is added if one of
    its object's templates is as similar as rho_reid, and no template of another object more
    so (a tube may have gone over to another object), at most settings.templates an object and
    at least settings.template_gap frames from another that was added. added: frames by object,
    also of the iterations before. given: (frame, object) of the given masks, which are templates
    already. embed(n): embedding (256,) of offer n.
    """
    most = {i: len(frames) + settings.templates for i, frames in added.items()}
    for n in np.lexsort((offers.frames, -offers.confidences)).tolist():
        j, i = int(offers.frames[n]), int(offers.objects[n])
        near = any(abs(j - k) < settings.template_gap for k in added[i])
        if near or (j, i) in given or len(added[i]) >= most[i]:
            continue
        vector = embed(n)
        alike = {k: max(float(known @ vector) for known in v) for k, v in gallery.items()}
        if alike[i] >= max(settings.rho_reid, *alike.values()):
            gallery[i].append(vector)
            added[i].append(j)


def retrieve(
    j: int,
    proposals: ProposalReader,
    gallery: Mapping[int, Array],
    first_masks: Mapping[int, IndexMask],
    settings: MatchesSettings,
    strict: Set[int] = frozenset(),
) -> list[Candidate]:
    """The proposals of frame j that are similar enough to an object's templates.

    gallery: templates (K, 256) by object, ascending. A proposal belongs to the object that
    it is most similar to; similarity is the largest cosine to its templates plus the weighted
    evidence. Of each object all that are over rho_reid, or by settings.starts only the best,
    and none if its mask is given in frame j. strict: objects for which rho_reid is higher by what
    evidence of ELSEWHERE adds.
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
        bar = settings.rho_reid + (settings.evidence * ELSEWHERE if i in strict else 0)
        mine = np.flatnonzero((nearest == row) & (similarity[row] > bar))
        if settings.starts == "best":
            wanted = len(mine) > 0 and i not in given
            mine = mine[[similarity[row, mine].argmax()]] if wanted else mine[:0]
        found += [Candidate(i, float(similarity[row, n]), boxes[n]) for n in mine]
    return found


def elsewhere(j: int, first_masks: Mapping[int, IndexMask], parted: Set[int]) -> set[int]:
    """Objects without a given mask in the shot of frame j, where they may well be absent.

    parted: frames that begin a shot.
    """
    if not parted:
        return set()
    here = shot(j, parted)
    near = [mask for k, mask in first_masks.items() if shot(k, parted) == here]
    return set(all_ids(first_masks.values())) - set(all_ids(near))


def _retrieved(retrieval: Retrieval, j: int, found: Sequence[Candidate]) -> Iterator[StartingPoint]:
    """Candidates of frame j with their masks; those without a mask are dropped."""
    f, look = retrieval.features, retrieval.networks.masks
    boxes = [c.box for c in found]
    masks = seen(retrieval.masks, j, boxes, lambda missing: look(f.coarse(j), missing))
    for c, mask in zip(found, masks, strict=True):
        if (mask > 127).any():
            yield StartingPoint(j, c.object_id, c.similarity, c.box, mask, given=False)
