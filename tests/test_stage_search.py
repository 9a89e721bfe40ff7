"""Template search against plain loops, and what it must find."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from models.config import Architecture
from stages.boxmask import tight
from stages.search import OVERLAP_LIMIT, SCALES, STEPS, Grid, Template, search, windows
from stages.settings import SearchSettings
from tests import reference
from tests.clip import FRAMES, SIZE, Clip, make_clip
from tests.networks import random_networks

SIDE = 8
"""px of a cell"""


@pytest.fixture(scope="module")
def clip() -> Clip:
    return make_clip()


def naive_vector(f: np.ndarray, box: tuple[float, float, float, float]) -> list[float]:
    """Features under a window that is high in the middle of a box, of unit length."""
    x0, y0, x1, y1 = box
    total = [0.0] * len(f)
    for r in range(f.shape[1]):
        for c in range(f.shape[2]):
            dx = abs((c + 0.5) * SIDE - (x0 + x1) / 2)
            dy = abs((r + 0.5) * SIDE - (y0 + y1) / 2)
            if dx > (x1 - x0) / 2 + SIDE / 2 or dy > (y1 - y0) / 2 + SIDE / 2:
                continue
            u, v = dx / (x1 - x0), dy / (y1 - y0)
            weight = math.exp(-(u * u + v * v) / (2 * 0.3**2))
            for k in range(len(f)):
                total[k] += weight * float(f[k, r, c])
    length = math.sqrt(sum(t * t for t in total))
    return [t / length for t in total]


def naive_windows(
    f: np.ndarray, boxes: dict[int, np.ndarray], first: np.ndarray, count: int
) -> list[list[float]]:
    """Windows of a frame f for templates at boxes of a frame `first`, both less their mean."""
    vectors = {i: naive_vector(first, tuple(box.tolist())) for i, box in boxes.items()}
    kept: list[list[float]] = []
    for i, box in boxes.items():
        found = []
        for scale in SCALES:
            width, height = (max(float(v) * scale, 2.0 * SIDE) for v in box[2:] - box[:2])
            best = []
            for r in range(0, f.shape[1], max(1, int(height / STEPS / SIDE))):
                for c in range(0, f.shape[2], max(1, int(width / STEPS / SIDE))):
                    x, y = (c + 0.5) * SIDE, (r + 0.5) * SIDE
                    whole = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
                    vector = naive_vector(f, whole)
                    alike = {k: reference.cosine(vector, v) for k, v in vectors.items()}
                    if alike[i] >= max(alike.values()):
                        best.append((alike[i], whole))
            found += sorted(best, key=lambda pair: -pair[0])[:20]
        mine: list[list[float]] = []
        for _, (x0, y0, x1, y1) in sorted(found, key=lambda pair: -pair[0]):
            inside = [max(x0, 0), max(y0, 0), min(x1, SIZE[1]), min(y1, SIZE[0])]
            wide = min(inside[2] - inside[0], inside[3] - inside[1]) >= 2 * SIDE
            if (
                len(mine) < count
                and wide
                and all(box_iou(inside, m) <= OVERLAP_LIMIT for m in mine)
            ):
                mine.append(inside)
        kept += mine
    return kept


def box_iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (a, b)]
    return width * height / (sum(areas) - width * height)


def scene(clip: Clip, j: int) -> np.ndarray:
    f = clip.features.coarse(j).astype(np.float64)
    return f - f.mean((1, 2), keepdims=True)


def test_search_equals_the_loop(clip: Clip) -> None:
    first = {0: clip.annotations[0]}
    found = list(search(clip.features, SIZE, first, clip.networks, SearchSettings(windows=2)))
    assert len(found) == FRAMES
    boxes = {i: tight(clip.annotations[0] == i) for i in (1, 3)}
    for j in (0, 3):
        expected = naive_windows(scene(clip, j), boxes, scene(clip, 0), 2)
        np.testing.assert_allclose(found[j][0], expected, atol=1e-3)
    for j, (windows_of_frame, vectors) in enumerate(found):
        assert windows_of_frame.dtype == vectors.dtype == np.float32
        again = clip.networks.embed(clip.features.coarse(j), windows_of_frame)
        np.testing.assert_array_equal(vectors, again)


def test_no_windows_is_the_papers_way(clip: Clip) -> None:
    first = {0: clip.annotations[0]}
    for boxes, vectors in search(
        clip.features, SIZE, first, clip.networks, SearchSettings(windows=0)
    ):
        assert boxes.shape == (0, 4) and vectors.shape == (0, 256)


def test_what_looks_like_the_template_is_found_elsewhere() -> None:
    """A patch with features of its own, 5 x 4 cells in one frame, 8 x 7 in another."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 256, 30, 40, generator=generator, dtype=torch.float64) * 0.3
    mark = torch.randn(256, generator=generator, dtype=torch.float64) * 3
    noise[0, :, 3:8, 6:10] += mark[:, None, None]
    noise[1, :, 18:26, 25:32] += mark[:, None, None]
    frames = noise - noise.mean((2, 3), keepdim=True)

    class Two:
        def __len__(self) -> int:
            return 2

        def coarse(self, j: int) -> np.ndarray:
            return frames[j].numpy().astype(np.float16)

        def fine(self, j: int) -> None:
            return None

    mask = np.zeros((240, 320), np.uint8)
    mask[24:64, 48:80] = 1
    networks = random_networks(Architecture.tiny(), modules=["reid"])
    found = [b for b, _ in search(Two(), (240, 320), {0: mask}, networks, SearchSettings())]
    assert box_iou(found[0][0].tolist(), [48, 24, 80, 64]) > 0.7
    x0, y0, x1, y1 = found[1][0].tolist()
    assert 200 < (x0 + x1) / 2 < 256 and 144 < (y0 + y1) / 2 < 208


def test_a_window_is_left_to_the_object_it_resembles_more(clip: Clip) -> None:
    f = torch.from_numpy(scene(clip, 0))
    box = tight(clip.annotations[0] == 1)
    vector = torch.tensor(naive_vector(f.numpy(), tuple(box.tolist())), dtype=torch.float64)
    one, opposite = Template(1, (20.0, 20.0), vector), Template(2, (20.0, 20.0), -vector)
    grids = [[Grid.of(one.size, scale, f[0]) for scale in SCALES]] * 2
    first, second = windows(f, [one, opposite], grids, SIZE, 1)
    assert torch.equal(first, windows(f, [one], grids[:1], SIZE, 1)[0])
    assert reference.cosine(naive_vector(f.numpy(), tuple(second.tolist())), vector) < 0


def test_weights_without_reid_are_named(clip: Clip) -> None:
    bare = random_networks(Architecture.tiny(), modules=["trunk"])
    with pytest.raises(ValueError, match="reid"):
        next(search(clip.features, SIZE, {0: clip.annotations[0]}, bare, SearchSettings()))
