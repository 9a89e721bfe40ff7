"""Optical flow: direction, encoding, read-ahead, RAFT's padding."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.flow import SCALE, decode, encode, flow
from stages.flow_methods import raft_estimator
from stages.settings import FlowSettings


def texture(height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 255, (height // 4, width // 4, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def panning(count: int, step: int = 3) -> list[np.ndarray]:
    """Frames whose content moves right by `step` px and down by one."""
    wide = texture(96, 200)
    return [
        np.ascontiguousarray(wide[20 - j : 84 - j, 60 - step * j : 156 - step * j])
        for j in range(count)
    ]


@pytest.mark.parametrize(("preset", "error"), [("ultrafast", 0.5), ("fast", 0.3), ("medium", 0.2)])
def test_flow_leads_to_the_other_frame(preset: str, error: float) -> None:
    frames = panning(6)
    pairs = list(flow(frames, FlowSettings(preset=preset)))
    assert len(pairs) == 5
    for to_previous, to_next in pairs:
        assert to_previous.dtype == to_next.dtype == np.int16
        assert to_previous.shape == to_next.shape == (2, 64, 96)
        middle = np.s_[:, 16:-16, 16:-16]
        back = np.median(decode(to_previous)[middle], axis=(1, 2))
        ahead = np.median(decode(to_next)[middle], axis=(1, 2))
        np.testing.assert_allclose(back, [-3, -1], atol=error)
        np.testing.assert_allclose(ahead, [3, 1], atol=error)


def test_a_pair_does_not_depend_on_the_rest_of_the_video() -> None:
    frames = panning(7)
    whole = list(flow(frames, FlowSettings()))
    part = list(flow(frames[4:6], FlowSettings()))
    np.testing.assert_array_equal(whole[4], part[0])


def test_every_pair_equals_a_single_call_of_dis() -> None:
    frames = panning(3)
    grey = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in frames]
    for t, (to_previous, to_next) in enumerate(flow(frames, FlowSettings())):
        for stored, a, b in ((to_previous, t + 1, t), (to_next, t, t + 1)):
            dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
            expected = dis.calc(grey[a], grey[b], None).transpose(2, 0, 1)
            assert np.abs(decode(stored) - expected).max() <= 0.5 / SCALE


@pytest.mark.parametrize("size", [(8, 8), (9, 200), (16, 200), (24, 1000), (300, 12)])
def test_small_and_narrow_frames(size: tuple[int, int]) -> None:
    frames = [np.random.default_rng(j).integers(0, 255, (*size, 3), np.uint8) for j in range(2)]
    ((to_previous, to_next),) = flow(frames, FlowSettings())
    assert to_previous.shape == to_next.shape == (2, *size)


def test_one_frame_has_no_flow() -> None:
    assert list(flow(panning(1), FlowSettings())) == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-2000, 2000, width=32), min_size=1, max_size=20))
def test_encoding_rounds_and_saturates(values: list[float]) -> None:
    field = np.array(values, np.float32)
    back = decode(encode(field))
    assert back.dtype == np.float32
    limited = np.clip(field, -32768 / SCALE, 32767 / SCALE)
    assert np.abs(back - limited).max() <= 0.5 / SCALE


def test_flow_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        encode(np.array([np.nan], np.float32))


def test_raft_pads_and_crops() -> None:
    from torchvision.models.optical_flow import raft_small

    estimate = raft_estimator(raft_small(weights=None), "cpu")
    image, other = panning(2)
    field = estimate(image[:50, :70], other[:50, :70])
    assert field.shape == (2, 50, 70) and field.dtype == np.float32
    assert np.isfinite(field).all()


def test_raft_without_weights_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a file where the folder of downloads would be: nothing can be read or written there
    (tmp_path / "hub").write_text("")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="use method 'dis'"):
        next(flow(panning(2), FlowSettings(method="raft")))
