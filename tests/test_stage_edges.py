"""Edges: the guided filter against least squares in every window, and what it is for."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.edges import FLAT, linear, sharpen


def fitted(colour: np.ndarray, p: np.ndarray, radius: int) -> np.ndarray:
    """linear() by ridge regression in each window; NaN where a window leaves the frame."""
    height, width = p.shape
    local = np.full((height, width, 4), np.nan)
    for y in range(radius, height - radius):
        for x in range(radius, width - radius):
            part = np.s_[y - radius : y + radius + 1, x - radius : x + radius + 1]
            values, wanted = colour[part].reshape(-1, 3), p[part].ravel()
            centred = values - values.mean(0)
            system = centred.T @ centred / len(values) + FLAT * np.eye(3)
            slope = np.linalg.solve(system, centred.T @ (wanted - wanted.mean()) / len(values))
            local[y, x] = [*slope, wanted.mean() - slope @ values.mean(0)]
    result = np.full_like(local, np.nan)
    for y in range(radius, height - radius):
        for x in range(radius, width - radius):
            part = local[y - radius : y + radius + 1, x - radius : x + radius + 1]
            result[y, x] = part.mean((0, 1))
    return result


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 2))
def test_every_window_is_fitted_by_least_squares(seed: int, radius: int) -> None:
    rng = np.random.default_rng(seed)
    colour = rng.random((11, 13, 3), dtype=np.float32)
    p = rng.random((11, 13), dtype=np.float32)
    found, expected = linear(colour, p, radius), fitted(colour, p, radius)
    inside = np.isfinite(expected)
    assert inside.any()
    np.testing.assert_allclose(found[inside], expected[inside], atol=2e-3, rtol=2e-3)


def disc(radius: float, x: float = 60.0) -> np.ndarray:
    rows, columns = np.mgrid[:96, :120] + 0.5
    return (columns - x) ** 2 + (rows - 48) ** 2 < radius**2


def scene(seed: int) -> np.ndarray:
    """A green disc on grey, both noisy."""
    rng = np.random.default_rng(seed)
    image = rng.integers(80, 110, (96, 120, 3), dtype=np.uint8)
    image[disc(30)] += np.array([0, 90, 20], np.uint8)
    return image


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([28.0, 32.0]), st.sampled_from([59.0, 61.0]))
def test_a_mask_that_is_off_by_half_a_cell_is_moved_to_the_edge(
    seed: int, radius: float, x: float
) -> None:
    near = disc(radius, x).astype(np.float32)
    sharp = sharpen(near, scene(seed), 6.0, 1.5)
    before, after = (overlap(p > 0.5, disc(30)) for p in (near, sharp))
    assert after > (1 + before) / 2


def test_where_colour_says_nothing_the_outline_stays() -> None:
    flat = np.full((96, 120, 3), 90, np.uint8)
    p = disc(30).astype(np.float32)
    assert overlap(sharpen(p, flat, 4.0, 1.5) > 0.5, disc(30)) > 0.97


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.floats(0.05, 60),
    st.floats(0.1, 4),
    st.integers(0, 100),
)
def test_any_window_gives_probabilities(
    height: int, width: int, cell: float, reach: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    kept = image.copy()
    p = rng.random((height, width), dtype=np.float32)
    found = sharpen(p, image, cell, reach)
    assert found.shape == p.shape and found.dtype == np.float32
    assert (found >= 0).all() and (found <= 1).all()
    np.testing.assert_array_equal(image, kept)
