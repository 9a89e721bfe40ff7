"""Figs. 4, 5 and 7: the attention of a tracklet, and the PNGs by the real command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline import DrawAttention, DrawComparison, DrawExamples, RunDataset
from pipeline.commands import engine
from pipeline.errors import UserError
from pipeline.paper.figures import CELL, GAP, HEAD, crop, grid, spread
from pipeline.results.overlays import picture
from stages.attention import attention
from stages.settings import TrackletsSettings
from stages.tracklets import Propagation, propagate
from tests.clip import FRAMES, make_clip, same
from tests.networks import random_networks
from tests.tiny_run import command, ran, write_dataset, write_weights


@pytest.mark.parametrize("frame", [0, 3])
def test_attention_is_of_the_tracklet_that_a_run_makes(frame: int) -> None:
    clip = make_clip()
    start, chosen = clip.start(frame, 1), TrackletsSettings()
    given = [clip.start(0, i, given=True) for i in (1, 3)]
    propagation = Propagation(clip.features, clip.flow, clip.networks, chosen)
    tracklet, maps = attention(propagation, start, given)
    plain = propagate(propagation, [start], given)[0]
    assert same(tracklet, plain)
    assert len(maps) == FRAMES - 1 - frame
    side = clip.networks.architecture.roi_size
    for a in maps:
        assert a.shape == (side, side)
        assert a.mean() == pytest.approx(1, abs=1e-5)
    # Recomputed step by step: the maps are those of the frames after the start, in order.
    f = clip.features.coarse
    cells = clip.networks.architecture.roi_size**2
    known = [
        (clip.networks.remember(f(0), g.box, g.mask, plain=False).roi(cells), g.object_id == 1)
        for g in given
        if (g.frame, g.object_id) != (frame, 1)
    ]
    state = clip.networks.start(
        f(frame), clip.features.fine(frame), start.box[None], start.mask[None], given=known
    )
    for n, a in enumerate(maps):
        j = frame + 1 + n
        frame_features = clip.features.coarse(j), clip.features.fine(j)
        state = clip.networks.step(state, *frame_features, clip.flow.to_previous(j))
        np.testing.assert_array_equal(state.attention[0], a)


def test_attention_ends_with_its_tracklet() -> None:
    clip = make_clip()
    ends = TrackletsSettings(abort_area=1e6)
    propagation = Propagation(clip.features, clip.flow, clip.networks, ends)
    tracklet, maps = attention(propagation, clip.start(2, 3), [])
    assert len(tracklet.masks) == 1 and maps == []


def test_attention_without_the_module() -> None:
    clip = make_clip()
    networks = random_networks(clip.networks.architecture, modules=("trunk", "remp_plain"))
    with pytest.raises(ValueError, match="remp"):
        propagation = Propagation(clip.features, clip.flow, networks, TrackletsSettings())
        attention(propagation, clip.start(0, 1), [])


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.tuples(*[st.floats(-15, 15, width=32) for _ in range(4)]),
)
def test_crop_against_pixel_by_pixel(height: int, width: int, box: tuple[float, ...]) -> None:
    image = np.random.default_rng(0).integers(1, 256, (height, width, 3), dtype=np.uint8)
    part = crop(image, np.array(box, np.float32))
    x0, y0, x1, y1 = (int(np.rint(v)) for v in box)
    assert part.shape == (max(1, y1 - y0), max(1, x1 - x0), 3)
    for y in range(y1 - y0):
        for x in range(x1 - x0):
            inside = 0 <= y0 + y < height and 0 <= x0 + x < width
            expected = image[y0 + y, x0 + x] if inside else 0
            np.testing.assert_array_equal(part[y, x], expected)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 12))
def test_spread_holds_both_ends(first: int, length: int, count: int) -> None:
    chosen = spread(first, first + length, count)
    assert chosen == sorted(set(chosen)) and len(chosen) <= count
    assert chosen[0] == first and (count == 1 or chosen[-1] == first + length)


def test_grid_keeps_every_picture() -> None:
    colours = [[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (9, 9, 9)]]
    rows = [[np.full((20, 30 + 5 * n, 3), c, np.uint8) for n, c in enumerate(r)] for r in colours]
    page = grid(rows, ["one", "two"], ["a", "b"])
    for n, row in enumerate(colours):
        for m, colour in enumerate(row):
            seen = (page == colour).all(-1).nonzero()
            assert len(seen[0]) == rows[n][m].shape[0] * rows[n][m].shape[1]


# --- the commands --------------------------------------------------------------------


class Place:
    """A folder with a dataset, weights and a cache."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out, self.cache = folder, folder / "out", folder / "cache"
        write_dataset(folder / "data", ("ant",))
        write_weights(folder / "weights.safetensors")

    def options(self, **changed: object) -> dict[str, object]:
        return {
            "dataset": "davis17",
            "root": str(self.folder / "data"),
            "weights": str(self.folder / "weights.safetensors"),
            "precision": "fp32",
            "max_iterations": "2",
            "columns": 3,
            # Untrained, an object would end at once.
            "set": "tracklets.abort_ratio=0,tracklets.abort_area=0",
            "output": str(self.out),
            **changed,
        }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place where the command has drawn the comparison."""
    place = Place(tmp_path_factory.mktemp("figures"))
    flags = [part for n, v in place.options().items() for part in (f"--{n.replace('_', '-')}", v)]
    done = command(
        "luigi",
        "DrawComparison",
        "--local-scheduler",
        *flags,
        cache=place.cache,
        cwd=place.folder,
    )
    assert done.returncode == 0, done.stderr
    tasks = ran(done.stdout)["ant"]
    assert tasks.count("flow") == tasks.count("features") == 1
    assert {"msk", "tubes(2)", "comparison"} <= set(tasks)
    return place


@pytest.fixture
def here(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("DYENET_CACHE", str(place.cache))
    return place


def test_comparison_is_drawn_once(here: Place) -> None:
    page = np.array(Image.open(here.out / "comparison-ant.png"))
    assert page.shape[1] > 3 * 320
    # A heading and five rows: the annotation and the four variants.
    cell = round(320 * 56 / 72)
    assert 5 * cell < page.shape[0] < 6 * cell
    assert DrawComparison(**here.options()).complete()
    assert not DrawComparison(**here.options(columns=2)).complete()
    assert not DrawComparison(**here.options(rho_reid="0.9")).complete()


def test_attention_reuses_what_the_comparison_made(
    here: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert engine.build(DrawAttention(**here.options(object=3)))
    assert ran(capsys.readouterr().out) == {"ant": ["attention"]}
    page = np.array(Image.open(here.out / "attention-ant-3.png"))
    assert page.shape[0] > 4 * 60 and page.shape[1] > 3 * 100
    assert DrawAttention(**here.options(object=3)).complete()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"object": 2}, "ERROR: --object 2: the masks given for video ant hold only 1, 3"),
        ({"columns": 0}, "--columns 0: must be at least 1"),
    ],
)
def test_bad_options(here: Place, changed: dict[str, int], message: str) -> None:
    flags = here.options(**changed).items()
    done = command(
        "luigi",
        "DrawAttention",
        "--local-scheduler",
        *(part for n, v in flags for part in (f"--{n.replace('_', '-')}", v)),
        cache=here.cache,
        cwd=here.folder,
    )
    assert done.returncode != 0
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_attention_needs_remp(here: Place) -> None:
    from models.config import Architecture
    from models.weights import build, save

    a, path = Architecture.tiny(), here.folder / "plain.safetensors"
    save(path, a, {name: build(name, a) for name in ("trunk", "remp_plain")}, {})
    with pytest.raises(UserError, match="holds no remp"):
        DrawAttention(**here.options(weights=str(path))).complete()


def test_clip_of_ones_own(here: Place) -> None:
    data = here.folder / "data"
    options = here.options(
        dataset="clip",
        root=str(data / "JPEGImages/480p/ant"),
        masks=str(data / "Annotations/480p/ant/00000.png"),
        output=str(here.folder / "own"),
    )
    assert engine.build(DrawComparison(**options))
    cell = round(320 * 56 / 72)
    page = np.array(Image.open(here.folder / "own" / "comparison-ant.png"))
    assert 4 * cell < page.shape[0] < 5 * cell


def contained(page: np.ndarray, cell: np.ndarray, top: int) -> bool:
    """Whether a page shows a picture in the row that begins at `top`."""
    height, width = cell.shape[:2]
    row = page[top : top + height]
    return any(np.array_equal(row[:, x : x + width], cell) for x in range(row.shape[1] - width + 1))


def test_examples_are_videos_in_rows(here: Place) -> None:
    """Given masks first, then those of a run's last frames; not more columns than frames."""
    data = write_dataset(here.folder / "two")
    options = here.options(root=str(data), columns=9, output=str(here.folder / "examples"))
    assert engine.build(DrawExamples(**options, videos="bee,ant"))
    path = here.folder / "examples" / "examples.png"
    page = np.array(Image.open(path))
    run = {**options, "output": str(here.folder / "examples/run")}
    del run["columns"]
    assert engine.build(RunDataset(**run))
    cell = round(CELL * 56 / 72)
    assert 2 * cell < page.shape[0] < 3 * cell and 4 * CELL < page.shape[1] < 5 * CELL
    for n, video in enumerate(("bee", "ant")):
        for frame, masks in (
            ("00000", data / "Annotations/480p"),
            ("00003", here.folder / "examples/run/masks"),
        ):
            image = np.array(Image.open(data / "JPEGImages/480p" / video / f"{frame}.jpg"))
            mask = np.array(Image.open(masks / video / f"{frame}.png"))
            shown = picture(image, mask, CELL)
            assert contained(page, shown, HEAD + n * (cell + GAP)), (video, frame)
            assert not contained(page, shown, HEAD + (1 - n) * (cell + GAP)), (video, frame)
    assert DrawExamples(**options, videos="bee,ant").complete()
    assert not DrawExamples(**options, videos="ant,bee").complete()
    assert not DrawExamples(**options, videos="bee").complete()
