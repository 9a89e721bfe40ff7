"""benchmarks/pipeline.py on a clip of three frames."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from benchmarks.pipeline import main
from tests.clip import draw
from tests.tiny_run import write_mask, write_weights


def test_every_figure_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for j in range(2):
        Image.fromarray(draw(j)[0]).save(frames / f"{j:05d}.png")
    write_mask(tmp_path / "first.png", draw(0)[1])
    weights = write_weights(tmp_path / "tiny.safetensors")
    asked = ["--root", frames, "--masks", tmp_path / "first.png", "--weights", weights]
    assert main([*map(str, asked), "--lengths", "3", "--precision", "fp32"]) == 0
    lines = capsys.readouterr().out.splitlines()
    height, width = draw(0)[1].shape
    assert lines[0].startswith(f"{width}x{height} px, weights {weights}, fp32, ")
    found = {line[:32].strip(): float(line[32:].replace(",", "")) for line in lines[1:]}
    assert found["frames"] == 3
    stages = ("features", "flow", "proposals", "embeddings", "matches", "tracklets", "tubes")
    for stage in stages:
        assert found[f"s a frame, {stage}"] > 0
        assert found[f"bytes a frame, {stage}"] > 0
    ratio = found["s a frame, whole run"] / found["s a frame, bare backbone"]
    assert found["whole run / bare backbone"] == pytest.approx(ratio, rel=0.1)
    assert 100 < found["peak memory, MiB"] < 10_000
