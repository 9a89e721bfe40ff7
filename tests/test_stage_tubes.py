"""Linking, rendering and offers against loops over frames and pixels."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.frames import FrameReader
from stages.settings import TubesSettings
from stages.starts import settled
from stages.tubes import link, offers, render
from stages.types import Drawn, Linking, StartingPoint, Tracklet
from tests import reference

SIZE = (24, 30)
FRAMES = 5
PLAIN = TubesSettings(edges=0)


class Pictures(FrameReader):
    """Noise that remembers what is read."""

    def __init__(self, frames: int, size: tuple[int, int]) -> None:
        self.names, self.size = tuple(map(str, range(frames))), size
        self.read: list[int] = []

    def decode(self, j: int) -> np.ndarray:
        self.read.append(j)
        return np.random.default_rng(j).integers(0, 256, (*self.size, 3), dtype=np.uint8)


def track(
    object_id: int,
    frame: int,
    similarity: float,
    first: int,
    corners: list[tuple[float, float]],
    given: bool = False,
    mask: np.ndarray | None = None,
    iteration: int = 1,
) -> Tracklet:
    """A tracklet of boxes of 10 px at `corners`, full unless a mask is passed."""
    full = np.full((4, 4), 255, np.uint8) if mask is None else mask
    boxes = np.array([[x, y, x + 10, y + 10] for x, y in corners], np.float32)
    start = StartingPoint(frame, object_id, similarity, boxes[frame - first], full, given)
    return Tracklet(start, iteration, first, boxes, np.stack([full] * len(corners)))


@st.composite
def tracks(
    draw: st.DrawFn, similarities: tuple[float, ...] = (0.7, 0.8, 0.9, 1.2)
) -> list[Tracklet]:
    """Up to six tracklets; a similarity above 1 has evidence in it."""
    result = []
    for n in range(draw(st.integers(1, 6))):
        first = draw(st.integers(0, FRAMES - 1))
        length = draw(st.integers(1, FRAMES - first))
        x, y = draw(st.sampled_from([(2.0, 2.0), (5.0, 4.0), (14.0, 9.0), (-4.0, 12.5)]))
        seed = draw(st.integers(0, 3))
        mask = np.random.default_rng(seed).integers(100, 256, (4, 4), dtype=np.uint8)
        result.append(
            track(
                draw(st.sampled_from([1, 4])),
                draw(st.integers(first, first + length - 1)),
                draw(st.sampled_from(similarities)),
                first,
                [(x + 0.7 * j, y) for j in range(length)],
                given=n == 0,
                mask=mask if seed else None,
                iteration=1 if n == 0 else draw(st.integers(1, 3)),
            )
        )
    return result


@settings(max_examples=60, deadline=None)
@given(tracks((0.7, 0.8, 0.9)), st.sampled_from([(0.31, 0.31), (0.5, 0.15), (0.83, 0.5)]))
def test_linking_is_the_papers_greedy_rule(
    items: list[Tracklet], limits: tuple[float, float]
) -> None:
    """A tracklet is merged if it does not contradict what those before it have made (3.2)."""
    own, other = limits
    linking = link(items, FRAMES, SIZE, TubesSettings(contradiction=own, rival=other))
    assert list(linking.objects) == sorted({t.start.object_id for t in items})
    assert linking.owner.dtype == np.int32
    for n, item in enumerate(items):
        tubes = before(n, items, linking)
        mine = tubes.pop(item.start.object_id)
        agreed = reference.agreement(item, items, mine, SIZE)
        rivals = [reference.agreement(item, items, tube, SIZE) for tube in tubes.values()]
        contradicts = (agreed is not None and agreed < own) or any(
            rival is not None and rival > other for rival in rivals
        )
        begins = item.start.given or set(mine) == {-1}
        assert linking.merged[n] == (begins or not contradicts)
        lacked = [j for j in range(FRAMES) if item.covers(j) and mine[j] < 0]
        assert owned(n, items, linking) == (lacked if linking.merged[n] else [])


@settings(max_examples=60, deadline=None)
@given(tracks())
def test_with_evidence_a_tube_still_holds_one_run_of_a_contradicting_tracklet(
    items: list[Tracklet],
) -> None:
    """Whatever fills a gap: no frame is taken from another, and none lies beyond the gap."""
    chosen = TubesSettings()
    linking = link(items, FRAMES, SIZE, chosen)
    for n, item in enumerate(items):
        frames = owned(n, items, linking)
        assert all(item.covers(j) for j in frames)
        assert linking.merged[n] or not frames
        mine = before(n, items, linking)[item.start.object_id]
        agreed = reference.agreement(item, items, mine, SIZE)
        if item.start.given or agreed is None or agreed >= chosen.contradiction or not frames:
            continue
        assert item.iteration == 1 and item.start.similarity > 1
        assert frames == list(range(frames[0], frames[-1] + 1))
        assert item.start.frame in frames


def owned(n: int, items: list[Tracklet], linking: Linking) -> list[int]:
    """Frames in which a tracklet is the mask of its object; it is no other's."""
    row = linking.objects.index(items[n].start.object_id)
    assert not (np.delete(linking.owner, row, 0) == n).any()
    return np.flatnonzero(linking.owner[row] == n).tolist()


def before(n: int, items: list[Tracklet], linking: Linking) -> dict[int, list[int]]:
    """Every object's tube as the tracklets that come before one in order have made it."""
    place = {m: rank for rank, m in enumerate(reference.order([t.start for t in items]))}
    return {
        i: [m if m >= 0 and place[m] < place[n] else -1 for m in row]
        for i, row in zip(linking.objects, linking.owner.tolist(), strict=True)
    }


def test_the_higher_order_keeps_its_masks() -> None:
    here = [(5.0, 5.0)] * FRAMES
    items = [track(1, 4, 0.8, 0, here), track(1, 0, 1.0, 0, here, given=True)]
    greedy = link(items, FRAMES, SIZE, TubesSettings())
    assert greedy.owner.tolist() == [[1] * 5] and greedy.merged.all()


@settings(max_examples=60, deadline=None)
@given(tracks())
def test_a_settled_object_gains_nothing_from_other_starts(items: list[Tracklet]) -> None:
    whole = track(1, 0, 1.0, 0, [(5.0, 4.0)] * FRAMES, given=True)
    items = [whole, *items]
    assert 1 in settled(items, FRAMES)
    kept = [n for n, t in enumerate(items) if t.start.given or t.start.object_id != 1]
    every = link(items, FRAMES, SIZE, TubesSettings())
    some = link([items[n] for n in kept], FRAMES, SIZE, TubesSettings())
    owner = [[kept[n] if n >= 0 else -1 for n in row] for row in some.owner]
    assert some.objects == every.objects and owner == every.owner.tolist()


def test_contradictions() -> None:
    first = track(1, 0, 1.0, 0, [(0.0, 0.0)] * FRAMES, given=True)
    other = track(2, 0, 1.0, 0, [(18.0, 12.0)] * FRAMES, given=True)
    away = track(1, 2, 0.9, 2, [(12.0, 0.0)] * 2)
    theirs = track(1, 2, 0.85, 2, [(17.0, 12.0)] * 2)
    agrees = track(1, 2, 0.8, 2, [(1.0, 0.0)] * 2)
    linking = link([agrees, theirs, away, other, first], FRAMES, SIZE, TubesSettings())
    assert linking.merged.tolist() == [True, False, False, True, True]
    assert linking.owner.tolist() == [[4] * 5, [3] * 5]


@pytest.mark.parametrize(
    ("similarity", "iteration", "frame", "rival", "owner"),
    [
        (1.2, 1, 3, 20.0, [0, 0, 2, 2, -1]),
        (0.9, 1, 3, 20.0, [0, 0, -1, -1, -1]),
        (1.2, 2, 3, 20.0, [0, 0, -1, -1, -1]),
        (1.2, 1, 1, 20.0, [0, 0, -1, -1, -1]),
        (1.2, 1, 3, 14.0, [0, 0, -1, -1, -1]),
    ],
    ids=["fills", "a cosine", "later", "starts in the tube", "a rival"],
)
def test_what_is_surer_than_a_cosine_fills_the_gap_that_it_starts_in(
    similarity: float, iteration: int, frame: int, rival: float, owner: list[int]
) -> None:
    items = [
        track(1, 0, 1.0, 0, [(0.0, 0.0)] * 2, given=True),
        track(2, 0, 1.0, 0, [(rival, 0.0)] * FRAMES, given=True),
        track(1, frame, similarity, 1, [(12.0, 0.0)] * 3, iteration=iteration),
    ]
    linking = link(items, FRAMES, SIZE, TubesSettings())
    assert linking.owner.tolist() == [owner, [1] * FRAMES]
    assert linking.merged.tolist() == [True, True, 2 in owner]


def test_a_gap_that_a_tracklet_does_not_start_in_stays_open() -> None:
    items = [
        track(1, 0, 1.0, 0, [(0.0, 0.0)], given=True),
        track(1, 2, 1.0, 2, [(0.0, 0.0)], given=True),
        track(1, 1, 1.2, 1, [(12.0, 0.0)] * 3),
    ]
    linking = link(items, FRAMES, SIZE, TubesSettings())
    assert linking.owner.tolist() == [[0, 2, 1, -1, -1]]


def test_what_shares_no_frame_does_not_contradict() -> None:
    items = [
        track(1, 0, 1.0, 0, [(0.0, 0.0)] * 2, given=True),
        track(1, 3, 0.8, 3, [(15.0, 10.0)] * 2),
    ]
    linking = link(items, FRAMES, SIZE, TubesSettings())
    assert linking.owner.tolist() == [[0, 0, -1, 1, 1]]


def test_a_given_mask_always_belongs_to_its_tube() -> None:
    items = [
        track(1, 0, 1.0, 0, [(0.0, 0.0)] * 4, given=True),
        track(1, 3, 1.0, 2, [(15.0, 10.0)] * 3, given=True),
    ]
    linking = link(items, FRAMES, SIZE, TubesSettings())
    assert linking.merged.all()
    assert linking.owner.tolist() == [[0, 0, 0, 0, 1]]


@settings(max_examples=25, deadline=None)
@given(tracks(), st.integers(0, 5), st.sampled_from([SIZE, (36, 45), (18, 20)]))
def test_rendering_equals_the_loop(items: list[Tracklet], seed: int, size: tuple[int, int]) -> None:
    fixed = np.random.default_rng(seed).choice([0, 0, 1, 255], size).astype(np.uint8)
    linking = link(items, FRAMES, SIZE, TubesSettings())
    pictures = Pictures(FRAMES, size)
    rendered = list(render(linking, items, {1: fixed}, pictures, SIZE, PLAIN))
    assert not pictures.read
    assert len(rendered) == FRAMES
    down, across = size[0] / SIZE[0], size[1] / SIZE[1]
    enlarged = [replace(t, boxes=t.boxes * np.array([across, down] * 2, np.float32)) for t in items]
    for j, (index, confidence) in enumerate(rendered):
        probabilities = {
            i: reference.mask_of(enlarged[n], j, size)
            for i, n in zip(linking.objects, linking.owner[:, j], strict=True)
            if n >= 0
        }
        known = fixed if j == 1 else None
        expected, values, close = reference.composite(probabilities, linking.objects, size, known)
        assert index.dtype == np.uint8 and confidence.dtype == np.float32
        assert (index == expected)[~close].all()
        # Of an object with close calls only, one side may have drawn no pixel.
        drawn = [(expected == i) | (index == i) for i in linking.objects]
        sure = [not mine.any() or (mine & ~close).any() for mine in drawn]
        np.testing.assert_allclose(confidence[sure], np.asarray(values)[sure], atol=0.05)
        if j == 1 and 1 in linking.objects:
            assert ((index == 1) == (fixed == 1)).all()


@settings(max_examples=25, deadline=None)
@given(tracks(), st.integers(1, 6))
def test_what_an_earlier_iteration_drew_is_not_drawn_again(
    items: list[Tracklet], count: int
) -> None:
    usual, first = TubesSettings(), {0: np.zeros(SIZE, np.uint8)}
    early, late = (link(some, FRAMES, SIZE, usual) for some in (items[:count], items))
    before = Drawn(early, *zip(*_drawn(early, items, first), strict=True))
    pictures = Pictures(FRAMES, SIZE)
    again = list(render(late, items, first, pictures, SIZE, usual, before))
    for (a, p), (b, q) in zip(again, _drawn(late, items, first), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(p, q)
    if early.objects == late.objects:
        same = (early.owner == late.owner).all(0)
        assert not {j for j in pictures.read if same[j]}


def _drawn(
    linking: Linking, items: list[Tracklet], first: dict[int, np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray]]:
    pictures = Pictures(FRAMES, SIZE)
    return list(render(linking, items, first, pictures, SIZE, TubesSettings()))


@settings(max_examples=25, deadline=None)
@given(tracks(), st.sampled_from([0.55, 0.7, 0.85]))
def test_offers_equal_the_loop(items: list[Tracklet], least: float) -> None:
    chosen = TubesSettings(template_confidence=least)
    linking = link(items, FRAMES, SIZE, chosen)
    found = offers(linking, items, chosen, SIZE)
    rows = []
    for j in range(FRAMES):
        for i, n in zip(linking.objects, linking.owner[:, j], strict=True):
            if n < 0:
                continue
            p = reference.mask_of(items[n], j, SIZE)
            ys, xs = (p > 0.5).nonzero()
            if len(ys) and p[p > 0.5].mean() >= least:
                box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
                rows.append((j, i, box, p[p > 0.5].mean()))
    assert found.frames.tolist() == [r[0] for r in rows] and found.frames.dtype == np.int32
    assert found.objects.tolist() == [r[1] for r in rows]
    assert found.boxes.tolist() == [r[2] for r in rows] and found.boxes.shape == (len(rows), 4)
    np.testing.assert_allclose(found.confidences, [r[3] for r in rows], atol=1e-4)


def test_no_tracklets_render_the_background() -> None:
    linking = link([], 2, SIZE, TubesSettings())
    assert linking.objects == () and linking.owner.shape == (0, 2)
    for index, confidence in render(linking, [], {}, Pictures(2, SIZE), SIZE, TubesSettings()):
        assert not index.any() and confidence.shape == (0,)
    assert offers(linking, [], TubesSettings(), SIZE).boxes.shape == (0, 4)


@pytest.mark.parametrize("frames", [20, 120])
def test_memory_does_not_grow_with_the_length_of_the_video(frames: int) -> None:
    size = (240, 320)
    item = track(1, 0, 1.0, 0, [(30.0, 30.0)] * frames, given=True)
    linking = link([item], frames, size, TubesSettings())
    tracemalloc.start()
    for _ in render(linking, [item], {}, Pictures(frames, size), size, TubesSettings()):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * size[0] * size[1] * 4
