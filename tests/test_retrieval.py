"""A video is retrieved from only where its given masks leave an object unsettled."""

from __future__ import annotations

import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cache.store import Store
from pipeline import RunDataset, reports
from pipeline.commands import engine
from pipeline.datasets.demo import Motion, render_clip
from pipeline.plan import chain
from pipeline.plan.chain import BOXES
from pipeline.plan.status import status
from tests.tiny_run import ran, write_mask

SIZE, FRAMES = (96, 160), 7
MOTIONS = {
    "leaves": ((0.45, 0.5, 1.1, 0.0), (1.3, 0.45, 1.2, 0.6), (0.5, 0.55, 1.25, 0.2)),
    "stays": ((0.3, 0.4, 1.2, 0.0), (0.5, 0.45, 1.2, 0.1), (0.7, 0.4, 1.2, 0.2)),
}
USUAL = "frames.height=128,run.precision=fp32,run.max_iterations=2"
GIVEN = ["matches(given)", "tracklets(given)"]
SETTLED = [*GIVEN, "tubes(given)", "scores(given)"]


class Place:
    """Two videos of one object each, and runs of them, each in a cache of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name, motion in MOTIONS.items():
            clip = render_clip(2, FRAMES, SIZE, motions=[Motion(motion)], flow=False)
            for kind in ("JPEGImages", "Annotations"):
                (root / "data" / kind / "480p" / name).mkdir(parents=True)
            for j, (image, mask) in enumerate(zip(clip.frames, clip.masks, strict=True)):
                path = root / "data" / "JPEGImages/480p" / name / f"{j:05d}.jpg"
                Image.fromarray(image).save(path, quality=95)
                write_mask(root / "data" / "Annotations/480p" / name / f"{j:05d}.png", mask)
        lists = root / "data" / "ImageSets" / "2017"
        lists.mkdir(parents=True)
        (lists / "val.txt").write_text("\n".join(MOTIONS) + "\n")

    def task(self, retrieval: str, out: str) -> RunDataset:
        return RunDataset(
            dataset="davis17",
            root=str(self.root / "data"),
            set=f"{USUAL},run.retrieval={retrieval}",
            output=str(self.root / out),
        )

    def files(self, out: str) -> dict[str, bytes]:
        """What scores and masks a run has written, but for counts of starting points."""
        scores = [self.root / out / "scores" / "frames.csv"]
        scores += (self.root / out / "scores").glob("*_results-*.csv")
        made = [*scores, *(self.root / out / "masks").rglob("*.png")]
        return {str(path.relative_to(self.root / out)): path.read_bytes() for path in made}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("retrieval"))


@pytest.fixture(scope="module")
def tasks(place: Place) -> dict[str, dict[str, list[str]]]:
    """Tasks that ran, by run and video."""
    found = {}
    for retrieval in ("always", "needed"):
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as said:
            patch.setenv("DYENET_CACHE", str(place.root / f"cache-{retrieval}"))
            assert engine.build(place.task(retrieval, retrieval))
        found[retrieval] = ran(said.getvalue())
    return found


def test_only_the_unsettled_video_is_retrieved_from(tasks: dict[str, dict[str, list[str]]]) -> None:
    once = ["frames", "flow", "features"]
    assert sorted(tasks["needed"]["stays"]) == sorted([*once, *SETTLED, "export"])
    missing = set(tasks["always"]["leaves"]) - set(tasks["needed"]["leaves"])
    assert not missing
    assert set(tasks["needed"]["leaves"]) - set(tasks["always"]["leaves"]) == {*GIVEN}
    assert {*BOXES} <= set(tasks["always"]["stays"])


@pytest.mark.usefixtures("tasks")
def test_masks_and_scores_are_those_of_retrieval_from_every_video(place: Place) -> None:
    always, needed = place.files("always"), place.files("needed")
    assert len(always) == 2 * FRAMES + 3
    assert always == needed


@pytest.mark.usefixtures("tasks")
def test_starting_points_are_counted_only_where_they_were_looked_for(place: Place) -> None:
    always, needed = (reports.per_iteration(place.root / out) for out in ("always", "needed"))
    assert list(needed["iteration"]) == [1, 2]
    np.testing.assert_array_equal(always["G"], needed["G"])
    counts = reports.read_table(
        place.root / "needed/scores/iterations.csv", reports.ITERATIONS
    ).set_index(["video", "iteration"])
    assert (counts.loc["stays", ["retrieved", "visible"]] == 0).all(axis=None)
    assert (counts.loc["leaves", "visible"] > 0).all()
    assert set(reports.starts(place.root / "needed").query("not given")["video"]) == {"leaves"}


@pytest.mark.usefixtures("tasks")
def test_a_cache_of_before_serves(
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """tracklets(1) tells what tracklets(given) would."""
    shutil.copytree(place.root / "cache-always", tmp_path / "cache")
    monkeypatch.setenv("DYENET_CACHE", str(tmp_path / "cache"))
    assert engine.build(place.task("needed", "served"))
    found = ran(capsys.readouterr().out)
    assert found["leaves"] == ["export"]
    assert sorted(found["stays"]) == sorted([*SETTLED, "export"])
    assert place.files("served") == place.files("needed")


@pytest.mark.usefixtures("tasks")
def test_status_lists_what_is_needed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = place.root / "cache-needed"
    monkeypatch.setenv("DYENET_CACHE", str(cache))
    recipe = place.task("needed", "needed").recipe
    found = list(status(recipe, Store(cache)))
    assert all(state.cached for state in found)
    stays = [state.label for state in found if state.video == "stays"]
    assert stays == ["frames", "flow", "features", *SETTLED]
    for video in MOTIONS:
        plan = chain.artifacts_of(recipe, video)
        Store(cache).path("tracklets", "davis17", video, plan[chain.FIRST].key).unlink()
    found = list(status(recipe, Store(cache)))
    why = {(state.video, state.label): state.why for state in found if not state.cached}
    assert why["stays", "tracklets(given)"] == "not computed yet"
    condition = "not computed yet; only if the given masks do not settle every object"
    assert why["stays", "evidence"] == condition
    assert ("leaves", "evidence") not in why
    assert place.task("needed", "needed").complete()
