"""Evidence against plain loops, and what it must tell apart."""

from __future__ import annotations

from copy import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.config import Architecture
from stages.boxmask import cut, tight
from stages.evidence import POINTS, SHORTLIST, Shown, evidence
from stages.seen import SeenBoxes
from tests import reference
from tests.clip import FRAMES, Clip, Features, make_clip
from tests.networks import random_networks, without

SIDE = 16
"""px of a cell of what the memory shows"""


@pytest.fixture(scope="module")
def clip() -> Clip:
    return make_clip()


def shown_at(share: np.ndarray, x: float, y: float) -> float:
    """What is shown at a place, between the middles of the cells; nothing outside the frame."""
    height, width = share.shape
    c, r = x / SIDE - 0.5, y / SIDE - 0.5
    total = 0.0
    for row in (int(np.floor(r)), int(np.floor(r)) + 1):
        for column in (int(np.floor(c)), int(np.floor(c)) + 1):
            if 0 <= row < height and 0 <= column < width:
                weight = (1 - abs(r - row)) * (1 - abs(c - column))
                total += weight * float(share[row, column])
    return total


def naive(share: np.ndarray, box: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Hint and agreement of one box, place by place."""
    x0, y0, x1, y1 = (float(v) for v in box)
    width, height = x1 - x0, y1 - y0
    everything = held = places = 0.0
    both = either = 0.0
    for r in range(POINTS):
        for c in range(POINTS):
            x = x0 - width / 2 + (c + 0.5) / POINTS * 2 * width
            y = y0 - height / 2 + (r + 0.5) / POINTS * 2 * height
            p = shown_at(share, x, y)
            inside = x0 <= x < x1 and y0 <= y < y1
            m = reference.value_at(box, mask, x, y) if inside else 0.0
            everything += p
            held += p * inside
            places += inside
            both += min(p, m)
            either += max(p, m)
    hint = (held / places) ** 0.5 * held / max(everything, 1e-6)
    return hint, both / max(either, 1e-6)


def test_evidence_equals_the_loop(clip: Clip) -> None:
    first = {0: clip.annotations[0]}
    a, nets = clip.networks.architecture, clip.networks
    found = list(evidence(clip.features, clip.proposals, first, nets, SeenBoxes()))
    assert len(found) == FRAMES
    for j in (0, 4):
        f, boxes = clip.features.coarse(j), clip.proposals.boxes(j)
        assert found[j].shape == (len(boxes), 2) and found[j].dtype == np.float32
        masks = nets.masks(f, boxes)
        for column, i in enumerate((1, 3)):
            box, mask = cut(clip.annotations[0], i, a.margin, a.mask_size)
            memory = nets.remember(clip.features.coarse(0), box, mask, plain=False)
            assert memory is not None
            share = nets.recognise(f, [memory], plain=False)[0].float().numpy()
            rows = [naive(share, b, m) for b, m in zip(boxes, masks, strict=True)]
            template = nets.embed(clip.features.coarse(0), tight(clip.annotations[0] == i)[None])[0]
            promise = [
                reference.cosine(v, template) + hint
                for v, (hint, _) in zip(clip.proposals.embeddings(j), rows, strict=True)
            ]
            short = sorted(range(len(boxes)), key=lambda n: -promise[n])[:SHORTLIST]
            expected = [rows[n][1] if n in short else 0.0 for n in range(len(boxes))]
            np.testing.assert_allclose(found[j][:, column], expected, atol=2e-3)


def test_the_box_and_mask_of_what_is_shown_agree_most() -> None:
    share = torch.zeros(6, 9)
    share[2:4, 3:6] = 1.0
    boxes = torch.tensor([[48.0, 32, 96, 64], [48, 32, 72, 64], [40, 16, 140, 90], [0, 0, 30, 30]])
    blank = torch.zeros(6, 9)
    shown = Shown(torch.stack((blank, share)), boxes)
    rough = shown.rough_agreement()
    assert int(rough[1].argmax()) == 0 and float(rough[1, 3]) == 0 and not rough[0].any()
    rows = torch.arange(4).repeat(2, 1)
    nothing, agreement = shown.agreement(rows, torch.ones(2, 4, 8, 8))
    assert int(agreement.argmax()) == 0 and float(agreement[3]) == 0
    assert float(agreement[0]) > 0.7 and not nothing.any()
    # half of the mask is missing
    half = torch.ones(2, 1, 8, 8)
    half[..., 4:] = 0
    assert float(shown.agreement(torch.zeros(2, 1, dtype=torch.long), half)[1, 0]) < 0.6


def test_several_given_masks_of_an_object_speak_each_for_itself(clip: Clip) -> None:
    def seen(*frames: int) -> np.ndarray:
        given = {j: clip.annotations[j] for j in frames}
        return np.stack(
            list(evidence(clip.features, clip.proposals, given, clip.networks, SeenBoxes()))
        )

    np.testing.assert_array_equal(seen(0, 3), np.maximum(seen(0), seen(3)))


def test_no_result_depends_on_which_masks_are_looked_for_together(
    clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen() -> np.ndarray:
        given = {j: clip.annotations[j] for j in (0, 3)}
        return np.stack(
            list(evidence(clip.features, clip.proposals, given, clip.networks, SeenBoxes()))
        )

    together = seen()
    monkeypatch.setattr("stages.evidence.TOGETHER", 1)
    np.testing.assert_array_equal(together, seen())


def test_frames_are_read_once_and_masks_remembered(clip: Clip) -> None:
    reader, memo = Features(clip.features.rows), SeenBoxes()
    first = {0: clip.annotations[0]}
    before = list(evidence(reader, clip.proposals, first, clip.networks, memo))
    assert set(reader.reads) == set(range(FRAMES))
    assert all(count == 1 + (j == 0) for j, count in reader.reads.items())
    bare = without(clip.networks, "mask")
    again = list(evidence(reader, clip.proposals, first, bare, memo))
    for one, two in zip(before, again, strict=True):
        np.testing.assert_array_equal(one, two)


def test_no_memory_no_evidence(clip: Clip) -> None:
    bare = random_networks(replace(Architecture.tiny(), memory=False), 0)
    first = {0: clip.annotations[0]}
    for values in evidence(clip.features, clip.proposals, first, bare, SeenBoxes()):
        assert values.shape[1] == 2 and not values.any()


def test_frames_without_boxes_have_no_evidence(clip: Clip) -> None:
    empty = copy(clip.proposals)
    empty.boxed = [np.zeros((0, 4), np.float32)] * FRAMES
    empty.vectors = [np.zeros((0, 256), np.float32)] * FRAMES
    first = {0: clip.annotations[0]}
    for values in evidence(clip.features, empty, first, clip.networks, SeenBoxes()):
        assert values.shape == (0, 2)
