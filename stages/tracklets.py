"""Recurrent mask propagation: starting points become tracklets (section 3.2).

Starting points are propagated in waves, forward and then backward, all members of a wave
advancing together so that each frame is read once. What is accepted, and every byte of
it, is the same for every wave size and memo: what a starting point becomes, carried on and on, is a
function of it alone; acceptance follows the order of the starting points; and a tracklet ends
where it has left the gap in what was accepted before it, so a wave carries it as far or farther.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache
from operator import attrgetter
from typing import Protocol

import numpy as np
import numpy.typing as npt

from models.memory import Memory
from models.networks import Networks, State
from stages import relocate
from stages.cuts import cuts
from stages.gaps import Carried, Gap
from stages.settings import TrackletsSettings
from stages.starts import covered, extent, settled
from stages.types import (
    Box,
    FeatureReader,
    FlowReader,
    Probability,
    Progress,
    StartingPoint,
    Tracklet,
)

VERSION = 10

WAVE = {"cpu": 1, "cuda": 8}
"""retrieved starting points propagated together; enters no key, since no result depends on it"""

Known = Callable[[], Sequence[tuple[StartingPoint, Memory]]]
"""the given masks with what they show in their RoIs"""


class TrackletMemo(Protocol):
    """Tracklets by the frame, box and mask they start from, as far as they were ever carried."""

    def get(self, start: StartingPoint) -> Carried | None: ...

    def put(self, carried: Carried) -> None: ...


@dataclass(frozen=True)
class Propagated:
    """A TrackletMemo in memory."""

    known: dict[tuple[int, int, bytes, bytes], Carried] = field(default_factory=dict)

    def get(self, start: StartingPoint) -> Carried | None:
        return self.known.get(_identity(start))

    def put(self, carried: Carried) -> None:
        before = self.get(carried.tracklet.start)
        both = carried if before is None else carried.joined(before)
        self.known[_identity(carried.tracklet.start)] = both


def _identity(start: StartingPoint) -> tuple[int, int, bytes, bytes]:
    """What a tracklet depends on of its starting point."""
    return start.frame, start.object_id, start.box.tobytes(), start.mask.tobytes()


@dataclass(frozen=True)
class Propagation:
    """What every tracklet of a video is made with."""

    features: FeatureReader
    flow: FlowReader
    networks: Networks
    settings: TrackletsSettings
    plain: bool = False
    """Re-MP without attention"""

    @cached_property
    def cuts(self) -> frozenset[int]:
        """Frames into which nothing is carried from the frame before, nor back."""
        return cuts(self.features, self.networks, self.settings.cuts)

    @cached_property
    def size(self) -> tuple[int, int]:
        """(H, W) px; reads features."""
        return extent(self.features)

    def gap(self, start: StartingPoint, accepted: Sequence[Tracklet]) -> Gap:
        """The gap that a starting point could fill; a given one has no end of it."""
        overlap = self.settings.overlap
        known = [] if start.given or not overlap else accepted
        own = [t for t in known if t.start.object_id == start.object_id]
        others = [t for t in known if t.start.object_id != start.object_id]
        return Gap(own, others, overlap, self.size if known else (0, 0))

    def until(self, carried: Carried, accepted: Sequence[Tracklet]) -> Tracklet | None:
        """What of a starting point is accepted; None if it was not carried so far."""
        return carried.until(lambda: self.gap(carried.tracklet.start, accepted))


def tracklets(
    propagation: Propagation,
    starts: Sequence[StartingPoint],
    accepted: Sequence[Tracklet],
    *,
    iteration: int,
    wave: int,
    memo: TrackletMemo | None = None,
    progress: Progress = lambda done, total: None,
) -> list[Tracklet]:
    """Accepted tracklets of all iterations so far: `accepted`, then the new ones.

    starts: in propagation order. A starting point that an accepted tracklet of its object
    covers is skipped, and so is one of a settled object; a given one never. A retrieved one ends
    where it has left the gap in what was accepted before it (stages.gaps). wave: retrieved starting
    points propagated together. What the memo knows is not propagated again.
    """
    kept = list(accepted)
    size, frames = propagation.size, len(propagation.features)
    known = _remembered(
        propagation, [s for s in (*starts, *(t.start for t in accepted)) if s.given]
    )

    def open_among(queue: Iterable[StartingPoint], new: Sequence[Tracklet]) -> list[StartingPoint]:
        done, skip = settled(kept, frames), propagation.settings.skip_iou
        return [
            s for s in queue if s.given or not (s.object_id in done or covered(s, new, skip, size))
        ]

    queue = open_among(starts, kept)
    while queue:
        # the given ones first, all at once: none is skipped, and they may settle their objects
        count = sum(s.given for s in queue) or wave
        members, queue = queue[:count], queue[count:]
        before = len(kept)
        grown = _grow(propagation, members, kept, known, memo)
        for start, carried in zip(members, grown, strict=True):
            if open_among([start], kept[before:]):
                tracklet = propagation.until(carried, kept)
                assert tracklet is not None, "more was accepted since, so it ends no later"
                kept.append(replace(tracklet, start=start, iteration=iteration))
        queue = open_among(queue, kept[before:])
        progress(len(starts) - len(queue), len(starts))
    return kept


def _grow(
    propagation: Propagation,
    members: Sequence[StartingPoint],
    accepted: Sequence[Tracklet],
    known: Known,
    memo: TrackletMemo | None,
) -> list[Carried]:
    """Every member carried until it has left its gap, by the memo or propagation."""
    if memo is None:
        return _propagate(propagation, members, accepted, known)
    found = [memo.get(start) for start in members]
    far = [c is not None and propagation.until(c, accepted) is not None for c in found]
    fresh = [start for start, enough in zip(members, far, strict=True) if not enough]
    grown = iter(_propagate(propagation, fresh, accepted, known))
    result = []
    for carried, enough in zip(found, far, strict=True):
        if carried is None or not enough:
            carried = next(grown)
            memo.put(carried)
        result.append(carried)
    return result


@dataclass
class Way:
    """What a starting point became in one direction."""

    gap: Gap
    frames: list[tuple[Box, Probability]] = field(default_factory=list)
    ended: bool = False
    """by itself, or with the video"""


@dataclass
class Trail:
    """A starting point that is propagated: its state where it starts, and its masks so far."""

    start: StartingPoint
    backward: Way
    forward: Way
    state: State | None = None
    floor: float = 0.0
    """area in px below which it ends"""

    def carried(self) -> Carried:
        """The tracklet; `iteration` is set when it is accepted."""
        middle = (self.start.box, self.start.mask)
        backward, forward = self.backward.frames, self.forward.frames
        boxes, masks = zip(*backward[::-1], middle, *forward, strict=True)
        first = self.start.frame - len(backward)
        tracklet = Tracklet(self.start, 0, first, np.stack(boxes), np.stack(masks))
        return Carried(tracklet, (self.backward.ended, self.forward.ended))


def propagate(
    propagation: Propagation, starts: Sequence[StartingPoint], given: Sequence[StartingPoint]
) -> list[Tracklet]:
    """Propagate every starting point both ways until it ends; none is skipped.

    given: the given masks of all objects, which every appearance memory takes in. A tracklet
    ends at a cut (stages.cuts), and where the warped mask is empty or its area falls below the
    larger of settings.abort_area px and settings.abort_ratio of the starting area. Each feature
    and flow frame is read once a direction, the features once more to find the cuts, and those of a
    given mask once more. A starting point without a cell over 0.5 stays alone in its frame.
    """
    carried = _propagate(propagation, starts, [], _remembered(propagation, given))
    return [c.tracklet for c in carried]


def _remembered(propagation: Propagation, given: Sequence[StartingPoint]) -> Known:
    """What the given masks show: computed once, and not before it is asked for."""
    remember, coarse = propagation.networks.remember, propagation.features.coarse
    cells = propagation.networks.architecture.roi_size**2

    def remembered() -> list[tuple[StartingPoint, Memory]]:
        shown = [
            (s, remember(coarse(s.frame), s.box, s.mask, plain=propagation.plain)) for s in given
        ]
        return [(s, memory.roi(cells)) for s, memory in shown if memory is not None]

    return cache(remembered)


def _propagate(
    propagation: Propagation,
    starts: Sequence[StartingPoint],
    accepted: Sequence[Tracklet],
    known: Known,
) -> list[Carried]:
    features, flow, networks = propagation.features, propagation.flow, propagation.networks

    def way(start: StartingPoint) -> Way:
        faint = not (start.mask > 127).any()
        return Way(propagation.gap(start, accepted), ended=faint)

    trails = [Trail(start, way(start), way(start)) for start in starts]
    moving = [trail for trail in trails if not trail.forward.ended]
    last = len(features) - 1
    read = lru_cache(maxsize=1)(lambda j: (features.coarse(j), features.fine(j)))

    def enter(trail: Trail) -> State:
        if trail.state is None:
            s = trail.start
            others = [
                (memory, g.object_id == s.object_id)
                for g, memory in known()
                if (g.frame, g.object_id) != (s.frame, s.object_id)
            ]
            trail.state = networks.start(
                *read(s.frame), s.box[None], s.mask[None], plain=propagation.plain, given=others
            )
            share = propagation.settings.abort_ratio * float(trail.state.areas[0])
            trail.floor = max(propagation.settings.abort_area, share)
        return trail.state

    def step(state: State, j: int, i: int) -> State:
        """From frame i, before or after j."""
        if max(i, j) in propagation.cuts:
            return state.ended()
        back, plain = _between(flow, j, i), propagation.plain
        if propagation.settings.lost == "left":
            return networks.step(state, *read(j), back, plain=plain)
        return relocate.step(networks, state, read(j), back, _between(flow, i, j), plain=plain)

    _walk(
        moving,
        range(last + 1),
        enter,
        lambda state, j: step(state, j, j - 1),
        attrgetter("forward"),
    )
    _walk(
        moving,
        range(last, -1, -1),
        enter,
        lambda state, j: step(state, j, j + 1),
        attrgetter("backward"),
    )
    return [trail.carried() for trail in trails]


def _between(flow: FlowReader, j: int, i: int) -> npt.NDArray[np.float32]:
    """Flow (2, H, W) px on the grid of frame j that leads to frame i, the one before or after."""
    return flow.to_previous(j) if i < j else flow.to_next(j)


def _walk(
    trails: Sequence[Trail],
    frames: range,
    enter: Callable[[Trail], State],
    step: Callable[[State, int], State],
    way: Callable[[Trail], Way],
) -> None:
    """Carry the trails through `frames`; each joins in its starting frame."""
    active: list[Trail] = []
    state: State | None = None
    for j in frames:
        if active and state is not None:
            state = step(state, j)
            going = _record(active, state, j, way)
            active, state = [active[n] for n in going], state[going]
        entering = [trail for trail in trails if trail.start.frame == j]
        if entering:
            states = [enter(trail) for trail in entering]
            state = State.cat(states if state is None else [state, *states])
            active += entering
    for trail in active:
        way(trail).ended = True


def _record(
    active: Sequence[Trail], state: State, j: int, way: Callable[[Trail], Way]
) -> list[int]:
    """Keep what the trails became in frame j; which of them go on."""
    floors = np.array([trail.floor for trail in active], np.float32)
    lives = state.alive & (state.areas >= floors)
    going = []
    for n, (trail, box, mask) in enumerate(zip(active, state.boxes, state.masks, strict=True)):
        mine = way(trail)
        mine.ended = not lives[n]
        if lives[n]:
            mine.frames.append((box, mask))
            if not mine.gap.left(j, box, mask):
                going.append(n)
    return going
