"""Box masks: cut, paste, IoU and merge against loops over pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.boxmask import area, cut, iou, merge, object_ids, paste, tight
from tests import reference

SIZE = (40, 52)
sides = st.floats(3, 45)
corners = st.floats(-15, 45)


@st.composite
def box_masks(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    x, y, w, h = draw(corners), draw(corners), draw(sides), draw(sides)
    s = draw(st.sampled_from([1, 4, 9, 16]))
    seed = draw(st.integers(0, 99))
    mask = np.random.default_rng(seed).integers(0, 256, (s, s), dtype=np.uint8)
    return np.array([x, y, x + w, y + h], np.float32), mask


def full(box: np.ndarray, mask: np.ndarray, size: tuple[int, int] = SIZE) -> np.ndarray:
    y0, x0, p = paste(box, mask, size)
    assert p.dtype == np.float32
    frame = np.zeros(size, np.float32)
    frame[y0 : y0 + p.shape[0], x0 : x0 + p.shape[1]] = p
    return frame


@settings(max_examples=40, deadline=None)
@given(box_masks())
def test_paste_equals_the_loop(item: tuple[np.ndarray, np.ndarray]) -> None:
    np.testing.assert_allclose(full(*item), reference.frame_of(*item, SIZE), atol=2e-5)


@settings(max_examples=40, deadline=None)
@given(box_masks(), box_masks())
def test_iou_equals_the_loop(
    a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]
) -> None:
    # a pixel at exactly 0.5 may fall to either side of the cut
    expected = reference.overlap(reference.frame_of(*a, SIZE), reference.frame_of(*b, SIZE))
    assert iou(*a, *b, SIZE) == pytest.approx(expected, abs=0.02)
    assert iou(*a, *b, SIZE) == iou(*b, *a, SIZE)


@settings(max_examples=40, deadline=None)
@given(box_masks(), st.integers(-9, 9), st.integers(-9, 9))
def test_paste_moves_with_its_box(item: tuple[np.ndarray, np.ndarray], dx: int, dy: int) -> None:
    box, mask = item
    big = (220, 220)
    here = full(box + 70, mask, big)
    moved = full(box + np.array([70 + dx, 70 + dy] * 2, np.float32), mask, big)
    np.testing.assert_allclose(np.roll(here, (dy, dx), (0, 1)), moved, atol=2e-4)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([1, 3, 8]),
    st.integers(1, 5),
    st.integers(1, 5),
    st.floats(8, 20),
    st.integers(0, 99),
)
def test_paste_keeps_the_mass_of_cells_of_whole_pixels(
    s: int, cell_w: int, cell_h: int, corner: float, seed: int
) -> None:
    box = np.array([corner, corner, corner + s * cell_w, corner + s * cell_h], np.float32)
    mask = np.random.default_rng(seed).integers(0, 256, (s, s), dtype=np.uint8)
    expected = mask.sum() / 255 * cell_w * cell_h
    assert full(box, mask, (80, 80)).sum() == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_a_full_mask_crosses_half_at_the_border_of_its_box() -> None:
    box = np.array([10.1, 5.1, 30.1, 25.1], np.float32)
    inside = full(box, np.full((8, 8), 255, np.uint8)) > 0.5
    expected = np.zeros(SIZE, bool)
    expected[5:25, 10:30] = True
    corner = np.zeros(SIZE, bool)
    corner[[5, 5, 24, 24], [10, 29, 10, 29]] = True
    assert (inside == expected)[~corner].all()


def test_paste_is_clipped_and_may_be_empty() -> None:
    mask = np.full((4, 4), 255, np.uint8)
    y0, x0, p = paste(np.array([-50, -50, -30, -30], np.float32), mask, SIZE)
    assert p.size == 0
    y0, x0, p = paste(np.array([-5, 30, 10, 90], np.float32), mask, SIZE)
    assert x0 == 0 and y0 + p.shape[0] == SIZE[0]


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 99),
    st.floats(0, 0.4).map(lambda m: round(m, 3)),
    st.sampled_from([4, 8, 28]),
)
def test_cut_equals_the_loop(seed: int, margin: float, s: int) -> None:
    rng = np.random.default_rng(seed)
    index = np.zeros((24, 30), np.uint8)
    y, x = rng.integers(0, 18, 2)
    index[y : y + 9, x : x + 7] = rng.integers(0, 3, index[y : y + 9, x : x + 7].shape)
    index[20, 20] = 2
    # the frame cuts it on two sides, or on none
    index = index[y + 3 :, x + 2 :] if seed % 2 else index
    box, mask = cut(index, 2, margin, s)
    expected_box, expected = reference.cut_out(index, 2, margin, s)
    assert box.dtype == np.float32 and mask.dtype == np.uint8
    np.testing.assert_allclose(box, expected_box, atol=1e-4)
    assert np.abs(mask - np.array(expected)).max() <= 0.51


def test_cut_and_paste_return_the_object() -> None:
    index = np.zeros((60, 80), np.uint8)
    index[12:40, 20:55] = 7
    box, mask = cut(index, 7, 0.15, 28)
    pasted = full(box, mask, (60, 80)) > 0.5
    wrong = np.count_nonzero(pasted != (index == 7))
    assert wrong / np.count_nonzero(index) < 0.08
    assert area(box, mask) == pytest.approx(np.count_nonzero(index), rel=0.1)


def test_large_boxes_are_compared_on_a_coarse_grid() -> None:
    size = (900, 1200)
    mask = np.full((16, 16), 255, np.uint8)
    a, b = np.array([[0, 0, 800, 800], [400, 0, 1200, 800]], np.float32)
    assert iou(a, mask, b, mask, size) == pytest.approx(1 / 3, abs=0.02)


def test_tight_and_ids() -> None:
    mask = np.zeros((9, 11), np.uint8)
    mask[2:5, 3:9] = 4
    mask[0, 0], mask[8, 8] = 255, 2
    assert object_ids(mask) == [2, 4]
    assert tight(mask == 4).tolist() == [3, 2, 9, 5]
    with pytest.raises(ValueError, match="empty"):
        tight(mask == 9)


@settings(max_examples=30, deadline=None)
@given(st.lists(box_masks(), min_size=1, max_size=3), st.booleans(), st.integers(0, 9))
def test_merge_equals_the_loop(
    items: list[tuple[np.ndarray, np.ndarray]], with_given: bool, seed: int
) -> None:
    objects = [2, 5, 9, 11]
    windows = {i: paste(*item, SIZE) for i, item in zip(objects, items, strict=False)}
    fixed = None
    if with_given:
        fixed = np.random.default_rng(seed).choice([0, 0, 0, 5, 255], SIZE).astype(np.uint8)
    index, confidence = merge(windows, objects, SIZE, fixed)
    probabilities = {i: full(*item) for i, item in zip(objects, items, strict=False)}
    expected, values, close = reference.composite(probabilities, objects, SIZE, fixed)
    assert (index == expected)[~close].all()
    np.testing.assert_allclose(confidence, values, atol=0.05)
    if fixed is not None:
        assert ((index == 5) == (fixed == 5)).all()
        assert confidence[1] == 1
