"""J and F against the official formulas written out, and the counts of Table 2."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.datasets import open_dataset, rule_of
from pipeline.datasets.demo import SPLIT, write_demo
from pipeline.results.folder import score_folder
from stages.boxmask import cut
from stages.scores import aggregate, mask_digest, score_video, starting_points, unknown_ids
from stages.types import IndexMask, StartingPoint
from tests.reference import (
    by_scipy,
    naive_jf,
    official_f,
    official_j,
    official_statistics,
    official_video,
)

DAVIS = Path(__file__).parents[1] / ".." / "shared" / "data" / "davis16"


def official_jf(predicted: IndexMask, truth: IndexMask, object_id: int) -> tuple[float, float]:
    """The official formulas, with a dilation that shares nothing with ours."""
    a, b = (predicted == object_id)[None], (truth == object_id)[None]
    return float(official_j(b, a)[0]), float(official_f(b, a, by_scipy)[0])


def jf(predicted: IndexMask, truth: IndexMask, object_id: int) -> tuple[float, float]:
    """J and F of one object in one frame."""
    scores = score_video([predicted], lambda _: truth, (object_id,))
    return float(scores.j[0]), float(scores.f[0])


def random_mask(rng: np.random.Generator, height: int, width: int) -> IndexMask:
    """Blobs of objects 1..3 and void that overlap, touch the frame's edges or are absent."""
    mask = np.zeros((height, width), np.uint8)
    for value in (1, 2, 3, 255):
        for _ in range(rng.integers(0, 3)):
            centre = int(rng.integers(0, width)), int(rng.integers(0, height))
            axes = int(rng.integers(1, width // 2 + 2)), int(rng.integers(1, height // 2 + 2))
            cv2.ellipse(mask, centre, axes, float(rng.integers(180)), 0, 360, value, -1)
    return mask


def moved(mask: IndexMask, dx: int, dy: int) -> IndexMask:
    shift = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
    size = mask.shape[1], mask.shape[0]
    return np.asarray(cv2.warpAffine(mask, shift, size, flags=cv2.INTER_NEAREST), np.uint8)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 140),
    width=st.integers(1, 140),
    shift=st.none() | st.tuples(st.integers(-6, 6), st.integers(-6, 6)),
)
def test_equal_to_the_official_formulas(
    seed: int, height: int, width: int, shift: tuple[int, int] | None
) -> None:
    """Per object and frame: independent masks, and predictions a little off."""
    rng = np.random.default_rng(seed)
    truth = random_mask(rng, height, width)
    predicted = moved(truth, *shift) if shift else random_mask(rng, height, width)
    objects = (1, 2, 3, 7)
    scores = score_video([predicted], lambda _: truth, objects)
    for n, i in enumerate(objects):
        expected = official_jf(predicted, truth, i)
        assert (scores.j[n], scores.f[n]) == pytest.approx(expected, abs=1e-9)
        assert (scores.j[n], scores.f[n]) == jf(predicted, truth, i)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 30),
    width=st.integers(1, 180),
    shift=st.none() | st.tuples(st.integers(-3, 3), st.integers(-3, 3)),
)
def test_equal_to_the_definition_pixel_by_pixel(
    seed: int, height: int, width: int, shift: tuple[int, int] | None
) -> None:
    """To the last bit; wide frames have a tolerance of 2 px."""
    rng = np.random.default_rng(seed)
    truth = random_mask(rng, height, width)
    predicted = moved(truth, *shift) if shift else random_mask(rng, height, width)
    for i in (1, 2):
        assert jf(predicted, truth, i) == naive_jf(predicted == i, truth == i)


def test_equal_on_a_whole_set(tmp_path: Path) -> None:
    """The demo, scored from files, next to the official tool's way through a whole set."""
    tree = write_demo(tmp_path, frames=8)
    rng = np.random.default_rng(0)
    expected = {}
    for folder in sorted((tree / "Annotations/480p").iterdir()):
        truths = [np.array(Image.open(path)) for path in sorted(folder.iterdir())]
        masks = [moved(mask, *(int(v) for v in rng.integers(-5, 6, 2))) for mask in truths]
        (tmp_path / "pred" / folder.name).mkdir(parents=True)
        for path, mask in zip(sorted(folder.iterdir()), masks, strict=True):
            Image.fromarray(mask).save(tmp_path / "pred" / folder.name / path.name)
        j, f = official_video(*(np.stack(v).astype(np.float64) for v in (truths, masks)), by_scipy)
        for n in range(len(j)):
            expected[folder.name, n + 1] = official_statistics(j[n]) + official_statistics(f[n])
    dataset = open_dataset("davis17", tree, SPLIT)
    rule = rule_of("davis17")
    table = score_folder(tmp_path / "pred", dataset, tmp_path / "out", rule)
    columns = [f"{m}_{name}" for m in "JF" for name in ("mean", "recall", "decay")]
    found = pd.DataFrame(table).set_index(["video", "object"])[columns]
    assert found.index.tolist() == sorted(expected)
    for key, values in expected.items():
        assert found.loc[key].to_numpy() == pytest.approx(values, abs=1e-9)
    means = np.mean(list(expected.values()), axis=0)
    overall = [(means[0] + means[3]) / 2, *means]
    written = (tmp_path / f"out/global_results-{SPLIT}.csv").read_text().splitlines()[1]
    assert written == ",".join(f"{value:.3f}" for value in overall)


@pytest.mark.skipif(not DAVIS.is_dir(), reason="the DAVIS 2016 sample is not on this machine")
def test_equal_on_davis_frames() -> None:
    for folder in sorted((DAVIS / "Annotations" / "480p").iterdir())[::6]:
        first, later = (
            (cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 0).astype(np.uint8)
            for path in sorted(folder.iterdir())[:9:8]
        )
        assert jf(first, later, 1) == pytest.approx(official_jf(first, later, 1), abs=1e-9)


def test_empty_masks() -> None:
    empty, full = np.zeros((40, 60), np.uint8), np.ones((40, 60), np.uint8)
    small = empty.copy()
    small[10:20, 10:20] = 1
    assert jf(empty, empty, 1) == (1, 1)
    assert jf(small, empty, 1) == (0, 0)
    assert jf(empty, small, 1) == (0, 0)
    assert jf(full, full, 1) == (1, 1)
    assert jf(full, empty, 1) == official_jf(full, empty, 1)


def test_void_of_the_truth_is_background() -> None:
    truth = np.zeros((40, 60), np.uint8)
    truth[10:20, 10:20] = 1
    predicted = truth.copy()
    truth[20:30, 10:20] = 255
    assert jf(predicted, truth, 1) == (1, 1)


def test_only_annotated_frames_are_scored() -> None:
    masks = [random_mask(np.random.default_rng(n), 30, 40) for n in range(5)]
    scores = score_video(masks, {1: masks[1], 4: masks[3]}.get, (1, 2))
    assert scores.frames.tolist() == [1, 1, 4, 4]
    assert scores.objects.tolist() == [1, 2, 1, 2]
    assert scores.j[:2].tolist() == [1, 1]


def test_another_size_is_an_error() -> None:
    mask = np.zeros((10, 12), np.uint8)
    with pytest.raises(ValueError, match=r"frame 0.*\(10, 12\).*\(12, 10\)"):
        score_video([mask], lambda _: mask.T, (1,))


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 40, 67, 255, 256])
def test_aggregate_is_the_official_one(frames: int) -> None:
    values = np.random.default_rng(frames).random(frames)
    result = aggregate(values)
    expected = official_statistics(values)
    assert (result.mean, result.recall, result.decay) == pytest.approx(expected, abs=1e-12)


def test_decay_beyond_256_frames() -> None:
    values = np.linspace(1, 0, 401)
    assert aggregate(values).decay == pytest.approx(0.75)
    official = aggregate(values, official_decay=True).decay
    assert official == pytest.approx(official_statistics(values)[2], nan_ok=True)
    assert official != pytest.approx(0.75)


def test_recall_is_strict_and_no_frames_are_nan() -> None:
    assert aggregate(np.array([0.5, 0.5, 0.51, 1.0])).recall == 0.5
    assert math.isnan(aggregate(np.zeros(0)).mean)


def start(mask: IndexMask, object_id: int, frame: int, given: bool = False) -> StartingPoint:
    box, probability = cut(mask, object_id, 0.15, 28)
    return StartingPoint(frame, object_id, 0.9, box, probability, given)


def test_starting_points_as_table_2() -> None:
    truth = np.zeros((60, 80), np.uint8)
    truth[10:30, 10:30] = 1
    truth[35:55, 40:70] = 2
    swapped = np.where(truth == 1, 2, np.where(truth == 2, 1, 0)).astype(np.uint8)
    annotations = {0: truth, 2: truth, 4: np.zeros_like(truth)}
    starts = [
        start(truth, 1, 0, given=True),
        start(truth, 2, 0, given=True),
        start(truth, 1, 2),
        start(truth, 1, 2),
        start(swapped, 2, 2),
        start(truth, 1, 4),
        start(truth, 1, 3),
    ]
    counts = starting_points(starts, annotations.get, 6)
    assert (counts.correct, counts.total, counts.found, counts.visible) == (2, 4, 1, 2)
    assert (counts.precision, counts.recall) == (0.5, 0.5)
    nothing = starting_points([], annotations.get, 1)
    assert math.isnan(nothing.precision)
    assert nothing.visible == 2


def test_digest_and_unknown_ids() -> None:
    mask = np.zeros((4, 6), np.uint8)
    assert mask_digest([mask, mask]) == mask_digest(iter([mask, mask.copy()]))
    assert mask_digest([mask]) != mask_digest([mask.reshape(6, 4)])
    mask[0, :3] = 1, 4, 255
    assert unknown_ids(mask, (1, 2)) == [4, 255]
