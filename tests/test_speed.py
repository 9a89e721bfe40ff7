"""pipeline/bench/speed.py: what is counted, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.config import Architecture
from models.weights import build, save
from pipeline.bench.speed import conditions, speed, table, training_seconds

RUN: dict[str, Any] = {
    "dataset": "davis16",
    "split": "val",
    "variant": "dyenet",
    "weights": "/there/compact.safetensors",
    "settings": {"run": {"precision": "bf16"}},
    "videos": {
        "a": {
            "frames": 30,
            "size": [480, 854],
            "seconds": {"flow": 2.0, "tubes(1)": 1.0, "tubes(2)": 3.0, "scores(1)": 50.0},
            "keys": {"flow": "f", "tubes(1)": "t1", "tubes(2)": "t2", "scores(1)": "s"},
        },
        "b": {"frames": 10, "size": [480, 910], "seconds": {"flow": 4.0}, "keys": {"flow": "g"}},
    },
}


def test_scoring_is_not_counted_and_iterations_add_up() -> None:
    found = speed(RUN, None)
    assert found.seconds == {"flow": 6.0, "tubes": 4.0}
    assert found.offline == 4.0 and found.online is None


def test_online_training_is_counted_in() -> None:
    assert speed(RUN, 30.0).online == 1.0
    text = table(speed(RUN, 30.0))
    assert "| all, offline | 10.00 | 4.00 | 100% |" in text
    assert "| all, online | 40.00 | 1.00 |" in text
    assert "| paper, online, Titan Xp |  | 0.43 |" in text
    assert "all, online" not in table(speed(RUN, None))


def test_conditions_name_device_and_precision() -> None:
    text = conditions(RUN, "a machine")
    for part in ("a machine", "bf16", "2 videos, 40 frames", "854x480, 910x480", "compact"):
        assert part in text
    assert "profile extended." in text
    paper = {**RUN, "settings": {"run": {"precision": "bf16", "profile": "paper"}}}
    assert "profile paper." in conditions(paper, "a machine")


def test_training_seconds_of_cards(tmp_path: Path) -> None:
    a = Architecture.tiny()
    for name, card in (("x", {"training_seconds": 5}), ("y", {"training_seconds": 7})):
        save(tmp_path / f"{name}.safetensors", a, {"remp": build("remp", a)}, card)
    assert training_seconds(tmp_path / "x.safetensors") == 5.0
    assert training_seconds(tmp_path) == 12.0
    save(tmp_path / "z.safetensors", a, {"remp": build("remp", a)}, {})
    assert training_seconds(tmp_path) is None
