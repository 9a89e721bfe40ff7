"""Recurrent mask propagation: against one start at a time, for every wave, from the memo."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import networks as models_networks
from models.networks import Networks, State
from stages.settings import TrackletsSettings
from stages.starts import extent, rank
from stages.tracklets import Propagated, Propagation, propagate, tracklets
from stages.types import StartingPoint, Tracklet
from tests import reference
from tests.clip import FRAMES, Clip, Features, Flow, make_clip, same
from tests.networks import without

Calls = list[tuple[int, int]]


@lru_cache(maxsize=1)
def clip() -> Clip:
    return make_clip()


def powerless() -> Networks:
    return without(clip().networks, "remp")


def run(
    starts: list[StartingPoint],
    wave: int = 4,
    memo: Propagated | None = None,
    accepted: tuple[Tracklet, ...] = (),
    iteration: int = 1,
    chosen: TrackletsSettings | None = None,
    calls: Calls | None = None,
    networks: Networks | None = None,
) -> list[Tracklet]:
    c = clip()
    return tracklets(
        Propagation(c.features, c.flow, networks or c.networks, chosen or TrackletsSettings()),
        starts,
        accepted,
        iteration=iteration,
        wave=wave,
        memo=Propagated() if memo is None else memo,
        progress=lambda done, total: None if calls is None else calls.append((done, total)),
    )


def expected(
    start: StartingPoint,
    starts: list[StartingPoint],
    chosen: TrackletsSettings,
    plain: bool = False,
) -> Tracklet:
    """The tracklet of one of several starts, some of them given."""
    c = clip()
    cells = c.networks.architecture.roi_size**2
    known = [
        (
            c.networks.remember(c.features.coarse(s.frame), s.box, s.mask, plain=plain).roi(cells),
            same_object,
        )
        for s in starts
        if s.given and not (s.frame == start.frame and s.object_id == start.object_id)
        for same_object in [s.object_id == start.object_id]
    ]
    first, boxes, masks = reference.extend(
        start, known, c.networks, c.features, c.flow, chosen.abort_ratio, chosen.abort_area, plain
    )
    return Tracklet(start, 1, first, np.stack(boxes), np.stack(masks))


def grow(starts: list[StartingPoint], chosen: TrackletsSettings, plain: bool) -> list[Tracklet]:
    c = clip()
    given = [s for s in starts if s.given]
    return propagate(Propagation(c.features, c.flow, c.networks, chosen, plain), starts, given)


@st.composite
def starting_points(draw: st.DrawFn) -> list[StartingPoint]:
    """Distinct starts in propagation order, some of them given."""
    places = draw(
        st.lists(
            st.tuples(st.integers(0, FRAMES - 1), st.sampled_from([1, 3])),
            min_size=1,
            max_size=7,
            unique=True,
        )
    )
    similar = [draw(st.sampled_from([0.7, 0.8, 0.9])) for _ in places]
    starts = [
        clip().start(j, i, s, given=j == 0) for (j, i), s in zip(places, similar, strict=True)
    ]
    return sorted(starts, key=rank)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    "chosen",
    [
        TrackletsSettings(),
        TrackletsSettings(abort_ratio=0.95),
        TrackletsSettings(abort_area=450, abort_ratio=0),
    ],
)
def test_propagation_equals_one_start_at_a_time(chosen: TrackletsSettings, plain: bool) -> None:
    starts = [clip().start(j, i) for j, i in ((2, 1), (6, 3), (2, 3), (5, 1))]
    starts += [clip().start(0, i, given=True) for i in (1, 3)]
    for tracklet, start in zip(grow(starts, chosen, plain), starts, strict=True):
        assert same(replace(tracklet, iteration=1), expected(start, starts, chosen, plain))
        assert tracklet.masks.dtype == np.uint8 and tracklet.boxes.dtype == np.float32
        assert tracklet.covers(start.frame)
        middle = start.frame - tracklet.first
        np.testing.assert_array_equal(tracklet.masks[middle], start.mask)
        np.testing.assert_array_equal(tracklet.boxes[middle], start.box)


def test_objects_that_know_different_given_masks_step_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # a given mask is not beside itself: its memory has fewer cells than a retrieved one's
    starts = [clip().start(0, 1, given=True), clip().start(0, 3, given=True), clip().start(2, 1)]
    alone = grow(starts, TrackletsSettings(), False)
    monkeypatch.setitem(models_networks.STEP_CHUNK, "cpu", 8)
    for a, b in zip(alone, grow(starts, TrackletsSettings(), False), strict=True):
        assert (a.first, a.masks.shape) == (b.first, b.masks.shape)
        # a larger batch may round otherwise
        assert np.abs(a.masks.astype(int) - b.masks).max() <= 2


def test_given_masks_are_in_memory_once() -> None:
    c = clip()
    starts = [c.start(0, i, given=True) for i in (1, 3)]
    cells = c.networks.architecture.roi_size**2
    known = [
        c.networks.remember(c.features.coarse(0), s.box, s.mask, plain=False).roi(cells)
        for s in starts
    ]
    read = c.features.coarse(1), c.features.fine(1)
    states = [
        c.networks.start(*read, s.box[None], s.mask[None], given=[(m, False) for m in known])
        for s in (c.start(1, 1), c.start(1, 3))
    ]
    state = c.networks.step(State.cat(states), *read, c.flow.to_previous(1))
    own = states[0].parts[0].memory
    for part in state.parts:
        assert part.memory.keys.shape == own.keys.shape
        assert all(m is k for (m, _), k in zip(part.given, known, strict=True))
    assert state.parts[0].memory.keys is own.keys


def test_abort() -> None:
    start = clip().start(3, 1)
    whole, alone = (
        grow([start], TrackletsSettings(abort_area=a, abort_ratio=0), False)[0] for a in (0, 1e6)
    )
    assert len(whole.masks) == FRAMES and whole.first == 0
    assert len(alone.masks) == 1 and alone.first == 3


def test_a_start_without_a_cell_over_half_stays_alone() -> None:
    start = clip().start(3, 1)
    faint = replace(start, mask=np.minimum(start.mask, 127))
    (tracklet,) = grow([faint], TrackletsSettings(), False)
    assert tracklet.first == 3 and len(tracklet.masks) == 1


def test_each_frame_is_read_once_a_direction() -> None:
    c = clip()
    features, flow = Features(c.features.rows), Flow(c.flow.rows)
    starts = [c.start(j, i) for j in (0, 2, 3, 6) for i in (1, 3)]
    chosen = TrackletsSettings(abort_area=0, abort_ratio=0)
    propagate(Propagation(features, flow, c.networks, chosen), starts, [])
    # the features once more for the cuts; the flow back to where the other direction came from
    assert max(features.reads.values()) <= 3 and sum(features.reads.values()) <= 3 * FRAMES
    assert set(flow.reads.values()) == {2} and len(flow.reads) == 2 * (FRAMES - 1)
    features, flow = Features(c.features.rows), Flow(c.flow.rows)
    paper = replace(chosen, cuts=0.0, lost="left")
    propagate(Propagation(features, flow, c.networks, paper), starts, [])
    assert max(features.reads.values()) <= 2 and sum(features.reads.values()) <= 2 * FRAMES
    assert set(flow.reads.values()) == {1} and len(flow.reads) == 2 * (FRAMES - 1)


@settings(max_examples=12, deadline=None)
@given(starting_points(), st.integers(1, 9), st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0]))
def test_waves_and_memo_do_not_change_a_byte(
    starts: list[StartingPoint], wave: int, skip: float
) -> None:
    chosen = TrackletsSettings(skip_iou=skip, abort_ratio=0.6)
    memo = Propagated()
    one = run(starts, 1, chosen=chosen)
    many = run(starts, wave, memo, chosen=chosen)
    # weights that cannot propagate: all of it comes from the memo
    again = run(starts, wave, memo, chosen=chosen, networks=powerless())
    size = extent(clip().features)
    naive = reference.accept(starts, [], lambda s: expected(s, starts, chosen), skip, size, FRAMES)
    assert len(one) == len(many) == len(again) == len(naive)
    for a, b, c, d in zip(one, many, again, naive, strict=True):
        assert same(a, b) and same(a, c) and same(a, d)


@settings(max_examples=8, deadline=None)
@given(starting_points(), st.randoms(), st.integers(1, 9), st.sampled_from([0.05, 0.3, 0.7]))
def test_what_an_earlier_run_carried_how_far_does_not_change_a_byte(
    starts: list[StartingPoint], random: Random, wave: int, skip: float
) -> None:
    chosen = TrackletsSettings(skip_iou=skip, abort_ratio=0.6)
    memo, retrieved = Propagated(), [s for s in starts if not s.given]
    # another order and other settings of the skip rule: each is carried farther here, or there
    earlier = random.sample(retrieved, len(retrieved))
    given = [s for s in starts if s.given]
    for other in (0.05, 0.5):
        run([*given, *earlier], 3, memo, chosen=replace(chosen, skip_iou=other))
    alone, shared = run(starts, 1, chosen=chosen), run(starts, wave, memo, chosen=chosen)
    for one, after in zip(alone, shared, strict=True):
        assert same(one, after)


def test_a_retrieved_tracklet_ends_three_frames_beyond_its_gap() -> None:
    c, chosen = clip(), TrackletsSettings(abort_ratio=0, abort_area=0)
    propagation = Propagation(c.features, c.flow, c.networks, chosen)
    start = c.start(2, 1)
    (whole,) = propagate(propagation, [start], [])
    assert (whole.first, whole.last) == (0, FRAMES - 1)

    def known(first: int, last: int, object_id: int, moved: float = 0) -> Tracklet:
        rows = slice(first, last + 1)
        origin = replace(start, object_id=object_id, frame=first)
        boxes = whole.boxes[rows] + np.float32(moved)
        return replace(whole, start=origin, first=first, boxes=boxes, masks=whole.masks[rows])

    def ends(*accepted: Tracklet) -> tuple[int, int]:
        found = run([start], accepted=accepted, iteration=2, chosen=chosen)[-1]
        to_its_end = replace(chosen, overlap=0)
        full = run([start], accepted=accepted, iteration=2, chosen=to_its_end, wave=1)[-1]
        assert same(replace(full, iteration=0), whole)
        rows = slice(found.first, found.last + 1)
        np.testing.assert_array_equal(found.masks, whole.masks[rows])
        np.testing.assert_array_equal(found.boxes, whole.boxes[rows])
        return found.first, found.last

    end = FRAMES - 1
    # its own object holds the frames: the same or not
    assert ends(known(3, 6, 1)) == (0, 5) == ends(known(3, 6, 1, moved=30))
    assert ends(known(3, 4, 1), known(5, 5, 1)) == (0, 5)
    # another object has its mask, or only the frames
    assert ends(known(3, 6, 3)) == (0, 5)
    assert ends(known(3, 6, 3, moved=30)) == (0, end)
    assert ends(known(3, 4, 1), known(5, 6, 3)) == (0, 5)
    # two frames are not three, nor with another between them
    assert ends(known(3, 4, 1)) == ends(known(3, 4, 1), known(6, 6, 1)) == (0, end)
    # backward
    late = c.start(4, 1)
    before = replace(known(0, 3, 1), start=replace(start, frame=0))
    assert run([late], accepted=(before,), iteration=2, chosen=chosen)[-1].first == 1


def test_a_tracklet_is_carried_on_for_who_needs_more() -> None:
    memo, chosen = Propagated(), TrackletsSettings(abort_ratio=0, abort_area=0, skip_iou=0.7)
    start = clip().start(2, 1)
    (whole,) = run([start], chosen=chosen)
    rows = slice(3, 6)
    origin = replace(start, frame=3)
    part = replace(whole, start=origin, first=3, boxes=whole.boxes[rows], masks=whole.masks[rows])
    short = run([start], memo=memo, accepted=(part,), iteration=2, chosen=chosen)[-1]
    assert short.last == 5 < whole.last
    assert same(run([start], memo=memo, chosen=chosen)[0], whole)
    # the memo now holds both, and either is read without a step
    for accepted, last in (((part,), 5), ((), whole.last)):
        again = run([start], memo=memo, accepted=accepted, networks=powerless(), chosen=chosen)
        assert again[-1].last == last


def test_given_starts_are_never_skipped_and_repeats_are() -> None:
    start = clip().start(2, 1)
    twin = replace(start, similarity=0.8)
    assert [t.start.similarity for t in run([start, twin])] == [0.9]
    assert len(run([start, replace(twin, given=True)])) == 2
    assert len(run([start, replace(twin, object_id=2)])) == 2


def test_later_iterations_keep_what_was_accepted_and_skip_what_it_covers() -> None:
    starts = [clip().start(0, 1, 1.0, given=True), clip().start(0, 3, 1.0, given=True)]
    first = run(starts)
    covered = StartingPoint(
        1, 1, 0.9, first[0].boxes[1 - first[0].first], first[0].masks[1 - first[0].first], False
    )
    chosen = TrackletsSettings(skip_iou=0.99)
    # object 3 must not be settled
    first[1] = replace(first[1], boxes=first[1].boxes[:4], masks=first[1].masks[:4])
    second = run([covered, clip().start(4, 3)], accepted=tuple(first), iteration=2, chosen=chosen)
    assert [t.iteration for t in second] == [1, 1, 2]
    assert all(a is b for a, b in zip(second, first, strict=False))
    assert second[2].start.object_id == 3


def test_nothing_more_is_propagated_for_a_settled_object() -> None:
    starts = [clip().start(0, 1, 1.0, given=True), clip().start(5, 1, 0.8)]
    throughout = TrackletsSettings(abort_ratio=0, abort_area=0, skip_iou=1.0)
    (whole,) = run(starts, chosen=throughout)
    assert len(whole.masks) == FRAMES
    assert run(starts[1:], accepted=(whole,), iteration=2, chosen=throughout) == [whole]
    # a retrieved tracklet that runs through the video settles nothing
    guessed = replace(whole, start=replace(whole.start, given=False))
    assert len(run(starts[1:], accepted=(guessed,), iteration=2, chosen=throughout)) == 2
    cut = replace(whole, boxes=whole.boxes[:-1], masks=whole.masks[:-1])
    assert len(run(starts[1:], accepted=(cut,), iteration=2, chosen=throughout)) == 2


def test_the_memo_serves_another_similarity_and_iteration() -> None:
    memo = Propagated()
    start = clip().start(2, 1)
    (first,) = run([start], memo=memo)
    other = replace(start, similarity=0.75)
    (second,) = run([other], memo=memo, iteration=3)
    assert second.iteration == 3 and second.start is other
    assert same(replace(second, start=start, iteration=1), first)


def test_given_masks_join_the_memory_of_every_tracklet() -> None:
    c, chosen = clip(), TrackletsSettings(abort_ratio=0, abort_area=0)
    starts = [c.start(3, 1), c.start(0, 1, given=True), c.start(0, 3, given=True)]
    propagation = Propagation(c.features, c.flow, c.networks, chosen)
    (alone,) = propagate(propagation, starts[:1], [])
    (joined,) = propagate(propagation, starts[:1], starts[1:])
    other = replace(starts[0], object_id=3)
    (swapped,) = propagate(propagation, [other], starts[1:])
    masks = [t.masks.tobytes() for t in (alone, joined, swapped)]
    assert len(set(masks)) == 3
    # a given mask is not its own rival
    (first,) = propagate(propagation, starts[1:2], starts[1:2])
    (bare,) = propagate(propagation, starts[1:2], [])
    assert same(first, bare)


def test_a_skipped_member_of_a_wave_goes_to_the_memo_only() -> None:
    memo = Propagated()
    start = clip().start(2, 1)
    near = replace(start, similarity=0.8, box=start.box + np.float32(0.25))
    assert len(run([start, near], wave=2, memo=memo)) == 1
    assert len(memo.known) == 2
    narrow = Propagated()
    assert len(run([start, near], wave=1, memo=narrow)) == 1
    assert len(narrow.known) == 1


def test_progress_ends_at_the_total() -> None:
    calls: Calls = []
    starts = [clip().start(0, i, given=True) for i in (1, 3)]
    starts += [replace(clip().start(j, 1), object_id=2) for j in range(1, 4)]
    chosen = TrackletsSettings(skip_iou=1.0)
    run(starts, wave=2, calls=calls, chosen=chosen)
    assert calls == [(2, 5), (4, 5), (5, 5)]
    assert run([]) == []


def test_one_frame_has_tracklets_of_one_mask() -> None:
    c = clip()
    features = Features(c.features.rows[:1])
    propagation = Propagation(features, Flow([]), c.networks, TrackletsSettings())
    (tracklet,) = propagate(propagation, [c.start(0, 1)], [])
    assert tracklet.first == 0 and len(tracklet.masks) == 1
