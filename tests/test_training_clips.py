"""Training clips: frames, masks and flow agree, whatever was done to them."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.boxmask import VOID
from tests.training_clips import SETTINGS, Drawn, make_clips, no_flow
from training.clips import Clip, Clips, Layer, animate, colour, mirror, place, stack
from training.motion import CONTROLS, PLATE_GRID, Step, grid, thin_plate
from training.settings import online

SIZE = (60, 80)


def smooth(seed: int) -> np.ndarray:
    """An image that changes slowly, so that bilinear look-ups of it hardly err."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3)).astype(np.uint8)
    return cv2.resize(small, SIZE[::-1], interpolation=cv2.INTER_CUBIC)


def still(seed: int, count: int = 3) -> Layer:
    mask = np.zeros(SIZE, np.uint8)
    mask[15:40, 20:50] = 2
    mask[5:12, 60:75] = VOID
    return Layer([smooth(seed)] * count, [mask] * count, {2: 7}, True)


def value(field: np.ndarray, x: float, y: float) -> np.ndarray:
    """Bilinear value of a field at a point, pixel by pixel."""
    column, row = x - 0.5, y - 0.5
    c, r = int(np.floor(column)), int(np.floor(row))
    total = np.zeros(field.shape[2:], np.float64)
    for dr in (0, 1):
        for dc in (0, 1):
            weight = (1 - abs(row - r - dr)) * (1 - abs(column - c - dc))
            at = field[np.clip(r + dr, 0, SIZE[0] - 1), np.clip(c + dc, 0, SIZE[1] - 1)]
            total += weight * at
    return total


def check_consistent(clip: Clip) -> None:
    """Each pixel looks like the place in the frame before that its flow leads to."""
    errors, other = [], 0
    points = 0
    for t in range(len(clip.to_previous)):
        for y in range(4, SIZE[0] - 4, 5):
            for x in range(4, SIZE[1] - 4, 5):
                fx, fy = clip.to_previous[t, :, y, x]
                px, py = x + 0.5 + fx, y + 0.5 + fy
                if not (2 < px < SIZE[1] - 2 and 2 < py < SIZE[0] - 2):
                    continue
                points += 1
                seen = clip.frames[t + 1, y, x].astype(float)
                errors.append(np.abs(value(clip.frames[t], px, py) - seen).max())
                other += clip.masks[t][int(py), int(px)] != clip.masks[t + 1][y, x]
    assert points > 50
    assert np.median(errors) < 6
    # nearest-neighbour masks may differ along their edges
    assert other / points < 0.12


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000))
def test_stills_move_by_their_flow(seed: int) -> None:
    rng = np.random.default_rng(seed)
    check_consistent(stack([still(seed)], 0.03, True, rng))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_mirror_and_colour_keep_clips_consistent(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clip = stack([still(seed)], 0.03, True, rng)
    check_consistent(colour(mirror(clip), rng))
    twice = mirror(mirror(clip))
    assert (twice.frames == clip.frames).all() and (twice.masks == clip.masks).all()
    np.testing.assert_array_equal(twice.to_previous, clip.to_previous)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_pasted_stills_carry_their_own_flow(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pasted = place(still(seed + 1), SIZE, 0.05, rng)
    clip = stack([still(seed), pasted], 0.02, True, rng)
    assert set(np.unique(clip.masks)) <= {0, 1, 2, VOID}
    assert list(clip.labels.values()) == [7, 7]
    on_top = clip.masks[1] == 2
    if on_top.sum() > 200:
        check_consistent(clip)


def test_what_leaves_the_frame_does_not_return() -> None:
    away = Step(np.array([[1, 0, 40], [0, 1, 0]], np.float32), np.zeros((*SIZE, 2), np.float32))
    back = Step(np.array([[1, 0, -40], [0, 1, 0]], np.float32), np.zeros((*SIZE, 2), np.float32))
    steps = iter([away, back])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Step, "random", classmethod(lambda cls, *_: next(steps)))
        _, masks, flow = animate(still(0), 0.0, np.random.default_rng(0))
    assert (masks[1][:, :10] == 2).sum() == (masks[0][:, 40:50] == 2).sum()
    # columns below 40 left in the second frame; the third shows them again, unmarked
    assert not (masks[2][:, :39] == 2).any()
    assert (flow[0][0] == 40).all() and (flow[1][0] == -40).all()


def test_first_frames_stay_as_they_are_without_motion() -> None:
    settings = replace(online(), motion=0.0, frames=3, height=64)
    clips = Clips([Drawn("still", 1)], settings, no_flow)
    for n in range(5):
        clip = clips[n]
        assert (clip.frames == clip.frames[:1]).all() and (clip.masks == clip.masks[:1]).all()
        assert not clip.to_previous.any()
    moved = Clips([Drawn("still", 1)], replace(settings, motion=0.1), no_flow)[0]
    assert moved.to_previous.any()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(20, 400), st.integers(20, 400))
def test_a_thin_plate_solves_its_equations(seed: int, height: int, width: int) -> None:
    """w and a of f(p) = sum w_i U(|p - p_i|) + a_0 + a_1 x + a_2 y by the normal equations."""
    field = thin_plate(np.random.default_rng(seed), (height, width), 0.1)
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 1, (CONTROLS, 2)) * (width, height)
    pulls = rng.normal(0, 0.025, (CONTROLS, 2)) * min(height, width)
    side = math.hypot(width, height)

    def terms(p: np.ndarray) -> tuple[list[float], list[float]]:
        distances = [math.dist(p, q) / side for q in places]
        return [r * r * math.log(r) if r else 0.0 for r in distances], [1, *(p / side)]

    matrix = np.zeros((CONTROLS + 3, CONTROLS + 3))
    for n, p in enumerate(places):
        kernel, plane = terms(p)
        matrix[n] = [*kernel, *plane]
        matrix[n, n] += 1e-3
        matrix[CONTROLS:, n] = plane
    weights = np.linalg.solve(matrix, np.vstack((pulls, np.zeros((3, 2)))))
    # on a coarse grid, bilinear between its points as a resized image is
    rows, columns = (-(-n // PLATE_GRID) + 1 for n in (height, width))
    coarse = np.array(
        [
            [
                np.concatenate(terms(np.array([x, y]))) @ weights
                for x in np.linspace(0, width, columns)
            ]
            for y in np.linspace(0, height, rows)
        ],
        np.float32,
    )
    expected = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(field, expected, atol=1e-3)


def test_a_step_is_its_affine_map_and_its_bend() -> None:
    bend = np.full((*SIZE, 2), 0.25, np.float32)
    step = Step(np.array([[2, 0, 1], [0, 1, -3]], np.float32), bend)
    places = step.places(SIZE)
    x, y = grid(SIZE)[7, 9]
    assert places[7, 9].tolist() == [2 * x + 1 + 0.25, y - 3 + 0.25]


def test_a_number_names_one_clip() -> None:
    clips, again = make_clips(), make_clips()
    ahead = [clips[n] for n in range(6)]
    for n in (4, 0, 5):
        assert (again[n].frames == ahead[n].frames).all()
        assert (again[n].to_previous == ahead[n].to_previous).all()
    assert len({clip.frames.tobytes() for clip in ahead}) == len(ahead)


def test_videos_keep_the_flow_of_the_estimator() -> None:
    def estimate(image: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.full((2, *image.shape[:2]), 3, np.float32)

    chosen = replace(SETTINGS, composites=0.0)
    clip = Clips([Drawn()], chosen, estimate)[0]
    assert (clip.to_previous == 3).all() and clip.frames.shape[0] == chosen.frames


def test_a_source_without_a_large_object_is_named() -> None:
    class Empty(Drawn):
        def mask(self, j: int) -> np.ndarray:
            return np.zeros((56, 72), np.uint8)

    with pytest.raises(ValueError, match="no object"):
        Clips([Empty()], SETTINGS, lambda a, b: np.zeros((2, *a.shape[:2]), np.float32))[0]


def test_pasted_objects_come_from_different_sources() -> None:
    names = ("a", "b", "c")
    sources = [Drawn(name) for name in names]
    chosen = replace(SETTINGS, composites=1.0, stills=0.0)
    clips = Clips(sources, chosen, no_flow)
    counts = set()
    for n in range(30):
        labels = list(clips[n].labels.values())
        assert len(labels) == len(set(labels))
        counts.add(len(labels))
    # the two objects of the first source, and none to two others
    assert counts == {2, 3, 4}
