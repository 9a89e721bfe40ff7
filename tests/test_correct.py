"""One's own clip: its page, and the loop of correcting it with one more mask."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from pipeline import cli
from pipeline.pages.correct import correction
from pipeline.reports import changes, masks
from tests.clip import draw
from tests.tiny_run import ROOT, ran, write_mask, write_weights

FRAMES = 6
ABOUT = {
    "frame_names": ["00000", "00005"],
    "given_names": ["00000"],
    "look": [{"name": "00003"}],
}
OUT = Path("/out")


@pytest.fixture
def segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, list[str]]]:
    """`dyenet` with some words, in a folder with a clip; tasks that ran, by video."""
    (tmp_path / "walk").mkdir()
    for j in range(FRAMES):
        Pillow.fromarray(draw(j)[0]).save(tmp_path / "walk" / f"{j:05d}.png")
    write_mask(tmp_path / "first.png", draw(0)[1])
    write_weights(tmp_path / "w.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LUIGI_CONFIG_PATH", str(ROOT / "tests" / "tiny.cfg"))
    monkeypatch.setenv("DYENET_CACHE", str(tmp_path / "cache"))

    def run(words: list[str]) -> dict[str, list[str]]:
        monkeypatch.setattr("sys.argv", words)
        assert cli.main(words[1:]) == 0
        return ran(capfd.readouterr().out)

    return run


def commands(page: Path) -> list[str]:
    """What the page says to enter."""
    found = re.findall(r"<pre>(.*?)</pre>", page.read_text(), re.DOTALL)
    return [line for block in found for line in unescape(block).splitlines()]


def test_one_more_mask_recomputes_what_follows_from_it(
    tmp_path: Path, segment: Callable[..., dict[str, list[str]]]
) -> None:
    asked = "dyenet segment walk first.png -o out --weights w.safetensors --precision fp32"
    settings = "--set run.retrieval=always --set run.max_iterations=1 --set frames.height=0"
    first = segment([*asked.split(), *settings.split()])
    shared = {"features", "flow", "proposals", "embeddings"}
    assert shared <= set(first["walk"])
    page = tmp_path / "out/report.html"
    assert "Changed since" not in page.read_text()

    make, copy, start, again = map(shlex.split, commands(page))
    assert (make[0], copy[0], start[0]) == ("mkdir", "cp", "cp")
    Path(make[-1]).mkdir(parents=True)
    given = Pillow.open(copy[1])
    assert (np.asarray(given) == draw(0)[1]).all()
    Path(copy[-1], Path(copy[1]).name).write_bytes(Path(copy[1]).read_bytes())
    place = Path(start[-1])
    assert Path(start[1]).exists() and place.parent == Path(copy[-1])
    corrected = draw(int(place.stem))[1]
    found = np.asarray(Pillow.open(start[1]))
    write_mask(place, corrected)

    second = segment(again)
    assert not shared & set(second["walk"])
    assert {"frames", "search", "evidence", "matches(1)", "export"} <= set(second["walk"])
    here = changes("out").query("frame == @n", local_dict={"n": int(place.stem)})
    expected = {
        i: np.count_nonzero((found == i) != (corrected == i))
        for i in range(1, 4)
        if ((found == i) != (corrected == i)).any()
    }
    assert dict(zip(here["object"], here["pixels"], strict=True)) == expected
    assert "Changed since" in page.read_text()
    given_rows = masks("out").query("confidence == 1")
    assert set(given_rows["frame"]) == {0, int(place.stem)}
    # The folder now holds what is given: the same command does.
    assert commands(page)[-1] == shlex.join(again)
    assert segment(again) == {}


@pytest.mark.parametrize(
    ("command", "corrected"),
    [
        ("dyenet segment a.mp4 m.png -o o --every 2", "dyenet segment a.mp4 C -o o --every 2"),
        ("dyenet segment a.mp4 ./d/m.png -o o", "dyenet segment a.mp4 C -o o"),
        (
            "dyenet segment a.mp4 m.png -o o --mask-from colours --mask-threshold",
            "dyenet segment a.mp4 C -o o",
        ),
        (
            "dyenet segment a.mp4 --box 1,2,3,4 --box=5,6,7,8 -o o",
            "dyenet segment a.mp4 -o o C",
        ),
        (
            "luigi --module pipeline RunDataset --dataset clip --root a.mp4 --masks '/x y/m.png'",
            "luigi --module pipeline RunDataset --dataset clip --root a.mp4 --masks C",
        ),
    ],
)
def test_the_corrected_command_reads_the_folder(command: str, corrected: str) -> None:
    lie = {"./d/m.png": "/x y/d/m.png", "--box": "/cache/boxes/0123.png"}
    masks = next((path for part, path in lie.items() if part in command), "/x y/m.png")
    how = correction(OUT, "a", ABOUT | {"asked": {"command": command, "masks": masks}})
    assert how is not None
    assert how.command.replace("/out/corrections/a", "C") == corrected
    assert how.prepare == [
        "mkdir -p /out/corrections/a",
        "cp /out/masks/a/00000.png /out/corrections/a",
    ]
    assert (how.drawn, how.place) == ("/out/masks/a/00003.png", "/out/corrections/a/00003.png")


def test_a_folder_of_masks_takes_one_more(tmp_path: Path) -> None:
    (tmp_path / "00000.png").touch()
    asked = {"command": "dyenet segment a.mp4 masks -o o", "masks": str(tmp_path)}
    how = correction(OUT, "a", ABOUT | {"asked": asked, "look": []})
    assert how is not None
    assert (how.prepare, how.command) == ([], asked["command"])
    assert how.place == str(tmp_path / "00005.png")


def test_a_video_of_a_dataset_has_no_such_page() -> None:
    assert correction(OUT, "a", ABOUT) is None
