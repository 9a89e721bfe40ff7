"""Ablation: the published rows, Fig. 6's categories, and the real command on tiny weights."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from models.config import Architecture
from models.weights import build, load_modules, save
from pipeline import Ablation, RunDataset, reports
from pipeline.cli import main
from pipeline.commands import engine
from pipeline.errors import UserError
from pipeline.pages.ablation import HEIGHT, chart
from pipeline.paper.attributes import attributes, box_areas, parse_sizes, scale_varies, size_class
from pipeline.paper.published import (
    GAIN_OVER,
    PER_DATASET,
    PER_VIDEO,
    PUBLISHED,
    RETRIEVAL,
    Published,
)
from pipeline.paper.tables import (
    ABLATION,
    CATEGORIES,
    INSTANCES,
    ablation,
    categories,
    instances,
)
from pipeline.plan.settings import described
from pipeline.plan.variants import BUILT_UP
from tests.test_layouts import segtrack, youtube
from tests.test_report import Page
from tests.tiny_run import command, ran, write_dataset, write_weights

# --- what the paper prints -----------------------------------------------------------


def test_published_figures_are_those_of_the_paper() -> None:
    """tests/data/published.csv: Tables 1 to 5 as printed, a line a row, of Table 2 an iteration."""
    with (Path(__file__).parent / "data" / "published.csv").open(encoding="utf-8") as file:
        printed = [tuple(row) for row in csv.reader(file)][1:]
    rows = [line_of(row) for row in PUBLISHED if row.table != 5]
    assert sorted(printed) == sorted([*rows, *table_2(), *table_5()])


def line_of(row: Published, *cells: float | None) -> tuple[str, ...]:
    """A row as tests/data/published.csv holds it; cells: its figures, if not its own."""
    figures = cells or (row.J, row.F, row.G, *([row.delta_G] if row.table == 3 else []))
    about = PER_DATASET in row.online, PER_VIDEO in row.online, row.ensemble
    return (str(row.table), row.method, *("yes" if it else "" for it in about), shown(figures))


def shown(figures: Iterable[float | None]) -> str:
    return " ".join("-" if value is None else str(value) for value in figures)


def table_2() -> Iterator[tuple[str, ...]]:
    for n, iteration in enumerate(("Iter. 1", "Iter. 2", "Iter. 3+")):
        cells = [value for found in RETRIEVAL.values() for value in found[n]]
        yield "2", iteration, "", "", "", shown(cells)


def table_5() -> Iterator[tuple[str, ...]]:
    cells = [row for row in PUBLISHED if row.table == 5]
    places = ["davis16", "segtrackv2", "youtube-objects"]
    for row in zip(cells[::3], cells[1::3], cells[2::3], strict=True):
        assert [cell.dataset for cell in row] == places
        yield line_of(row[0], *(cell.J for cell in row))


def test_printed_gains_are_differences_of_the_rows_named() -> None:
    rows = {(row.variant, bool(row.online)): row for row in PUBLISHED if row.table == 3}
    for row, base in GAIN_OVER.items():
        assert rows[row].delta_G == pytest.approx(rows[row].G - rows[base].G, abs=0.11)


# --- categories ----------------------------------------------------------------------

SIDES = st.integers(1, 12)
MASKS = SIDES.flatmap(
    lambda h: SIDES.flatmap(
        lambda w: st.lists(arrays(np.uint8, (h, w), elements=st.integers(0, 3)), max_size=4)
    )
)


@given(MASKS)
def test_box_areas_against_pixel_by_pixel(masks: list[np.ndarray]) -> None:
    expected: dict[int, list[float]] = {1: [], 2: [], 3: []}
    for mask in masks:
        for i, areas in expected.items():
            places = [(y, x) for y, x in np.ndindex(mask.shape) if mask[y, x] == i]
            if places:
                ys, xs = zip(*places, strict=True)
                areas.append((max(ys) - min(ys) + 1) * (max(xs) - min(xs) + 1))
    assert box_areas(masks, [1, 2, 3]) == expected


@given(st.lists(st.integers(1, 1000).map(float)))
def test_scale_varies_if_any_pair_does(areas: list[float]) -> None:
    pairs = itertools.permutations(areas, 2)
    assert scale_varies(areas) == any(a / b < 0.5 for a, b in pairs)


@given(st.floats(0, 1), st.floats(0.001, 0.4), st.floats(0.5, 0.9))
def test_size_class_of_every_share(share: float, medium: float, large: float) -> None:
    expected = "large" if share >= large else "medium" if share >= medium else "small"
    assert size_class(share, (medium, large)) == expected


@pytest.mark.parametrize("text", ["", "0.1", "0.2,0.1", "0,0.1", "0.1,1", "a,b", "0.1,0.2,0.3"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(UserError, match="--sizes"):
        parse_sizes(text)


def test_attributes(tmp_path: Path) -> None:
    path = tmp_path / "attributes.csv"
    path.write_text("object,video,pose,occlusion\n2,007,yes,heavy\n1,007,,\n")
    table = attributes(path)
    assert table.to_dict("list")["video"] == ["007", "007"]
    assert table["occlusion"].tolist() == ["heavy", ""]
    assert table["pose"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,object,occlusion\na,1,none\n", "lacks the column pose"),
        ("video,object,occlusion,pose\na,1,some,yes\n", "line 2: occlusion is 'some', must be"),
        ("video,object,occlusion,pose\na,1,none,\na,2,none,1\n", "line 3: pose is '1', must be"),
        ("video,object,occlusion,pose\na,x,none,no\n", "line 2: object is 'x'"),
        ("video,object,occlusion,pose\na,1,none,no\na,1,none,no\n", "object 1 of video a twice"),
        ("", "cannot be read as a CSV"),
    ],
)
def test_bad_attributes(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "attributes.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        attributes(path)
    assert "\n" not in str(caught.value)


def test_chart_keeps_to_its_groups() -> None:
    rows = [("all", "all", "msk", 3, 0.5), ("all", "all", "remp", 3, 1.0)]
    rows += [("size", "small", "remp", 1, 0.25), ("size", "large", "msk", 0, np.nan)]
    found = chart(pd.DataFrame(rows, columns=list(CATEGORIES)).astype(CATEGORIES))
    assert found is not None
    assert [(g.attribute, g.level, g.instances) for g in found.groups] == [
        ("all", "all", 3),
        ("size", "small", 1),
    ]
    assert [bar.height for group in found.groups for bar in group.bars] == [
        HEIGHT / 2,
        HEIGHT,
        HEIGHT / 4,
    ]
    edges = [edge for group in found.groups for edge in (group.left, group.right)]
    assert edges == sorted(edges) and edges[-1] < found.width
    for group in found.groups:
        assert all(group.left <= bar.x < group.right for bar in group.bars)
    assert list(found.legend) == ["MSK", "Re-MP"]


# --- the command ---------------------------------------------------------------------

ATTRIBUTES = "video,object,occlusion,pose\nant,1,none,no\nant,3,heavy,yes\nbee,1,heavy,\n"


TUNING = "iterations=2,clips=1,frames=2,height=56,queue=8,boxes=2,rate=0.5"


def write_halved(path: Path, **changed: int) -> Path:
    """write_weights() in float16, as training leaves them."""
    write_weights(path, **changed)
    save(path, Architecture.tiny(), load_modules(path), {}, torch.float16)
    return path


class Place:
    """A folder with a dataset, weights and what an Ablation of them left."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out, self.cache = folder, folder / "out", folder / "cache"
        write_dataset(folder / "data")
        write_halved(folder / "offline.safetensors")
        (folder / "attributes.csv").write_text(ATTRIBUTES)

    def options(self, **changed: str) -> dict[str, str]:
        usual = {
            "dataset": "davis17",
            "root": str(self.folder / "data"),
            "weights": str(self.folder / "offline.safetensors"),
            "online_weights": str(self.folder / "online.safetensors"),
            "attributes": str(self.folder / "attributes.csv"),
            "sizes": "0.06,0.09",
            "precision": "fp32",
            "max_iterations": "2",
            "output": str(self.out),
        }
        return {name: value for name, value in {**usual, **changed}.items() if value}

    def flags(self, *, leave: tuple[str, ...] = (), **changed: str) -> list[str]:
        options = {n: v for n, v in self.options(**changed).items() if n not in leave}
        return [part for n, v in options.items() for part in (f"--{n.replace('_', '-')}", v)]

    def luigi(self, *arguments: object) -> str:
        """Run a task; what it said."""
        done = command("luigi", *arguments, "--local-scheduler", cache=self.cache, cwd=self.folder)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def tune(self) -> None:
        """Train online.safetensors, so briefly and fast that masks change."""
        self.luigi(
            *("FinetuneOnFirstFrames", "--dataset", "davis17", "--root", self.folder / "data"),
            *("--weights", self.folder / "offline.safetensors", "--set", TUNING),
            *("--output", self.folder / "online.safetensors"),
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("ablation"))
    place.tune()
    tasks = ran(place.luigi("Ablation", *place.flags()))
    assert tasks["ant"].count("flow") == tasks["ant"].count("features") == 1
    assert tasks["ant"].count("frames") == tasks["ant"].count("proposals") == 1
    assert tasks[""].count("report") == 2 * len(BUILT_UP) and tasks[""].count("ablation") == 1
    return place


RUNS = [*BUILT_UP, *(f"{name}-online" for name in BUILT_UP)]


def test_every_row_of_ours_is_of_its_run(place: Place) -> None:
    table = ablation(place.out)
    assert {name: str(kind) for name, kind in table.dtypes.items()} == ABLATION
    ours = table[table["source"] == "run"]
    scores = {name: reports.per_iteration(place.out / name).iloc[-1] for name in RUNS}
    for variant in BUILT_UP:
        assert scores[variant]["G"] != scores[f"{variant}-online"]["G"], variant
    assert ours.groupby("table")["method"].count().to_dict() == {1: 3, 3: 5, 4: 2, 5: 2}
    for row in ours.to_dict("records"):
        run = scores[row["variant"] + ("-online" if row["per_dataset"] else "")]
        assert row["J"] == run["J"]
        assert row["table"] == 5 or (row["F"], row["G"]) == (run["F"], run["G"])
    gains = ours[ours["table"] == 3].set_index("method")["delta_G"]
    assert gains["Re-MP, full"] == pytest.approx(scores["remp-online"].G - scores["msk-online"].G)
    assert gains["offline only"] == pytest.approx(scores["dyenet"].G - scores["dyenet-online"].G)
    assert np.isnan(gains["MSK"])


HEADS = {
    1: "Method,Source,J-mean,F-mean,G-mean",
    2: "Source,rho_reid,Iteration,Precision,Recall,G-mean",
    3: "Method,Source,J-mean,F-mean,G-mean,delta G-mean",
    4: "Method,Source,per-dataset,per-video,J-mean,F-mean,G-mean",
    5: "Method,Source,per-dataset,per-video,DAVIS16,SegTrackv2,YoutbObjs,davis17 val",
}
LINES = {
    1: "Re-MP, full|paper|67.3|71.0|69.1",
    2: "paper|0.9|1|97.0|16.0|72.3",
    3: "+ Re-ID|paper|65.8|70.5|68.2|7.2",
    4: "OnAVOS†|peer|yes|yes|53.4|59.6|56.5",
    5: "DyeNet|paper|yes||86.2|78.7|79.6|",
}
"""one printed line of each table"""


def test_tables_have_the_papers_form(place: Place) -> None:
    """In percent, with a line of ours below each line of the paper's."""
    for n in HEADS:
        written = pd.read_csv(place.out / f"tables/table{n}.csv", dtype=str, keep_default_na=False)
        assert ",".join(written.columns) == HEADS[n]
        assert LINES[n] in {"|".join(row) for row in written.itertuples(index=False)}
        if n != 2:
            sources = written["Source"].tolist()
            below = [after for source, after in itertools.pairwise(sources) if source == "paper"]
            assert below == ["run"] * sources.count("paper")
    one = pd.read_csv(place.out / "tables/table1.csv").query("Source == 'run'")
    g = reports.per_iteration(place.out / "remp").iloc[-1]["G"]
    assert one.set_index("Method").loc["Re-MP, full", "G-mean"] == round(100 * g, 1)
    five = pd.read_csv(place.out / "tables" / "table5.csv").set_index(["Method", "Source"])
    assert five.loc[("OSVOS", "peer"), ["DAVIS16", "SegTrackv2", "YoutbObjs"]].tolist() == [
        79.8,
        65.4,
        72.5,
    ]
    assert five.loc[("DyeNet (offline)", "run"), "davis17 val"] > 0
    assert np.isnan(five.loc[("VPN", "peer"), "SegTrackv2"])
    two = pd.read_csv(place.out / "tables" / "table2.csv")
    assert two["Source"].tolist() == ["paper"] * 12 + ["run"] * 2


def test_instances_against_the_files(place: Place) -> None:
    table = instances(place.out)
    assert {name: str(kind) for name, kind in table.dtypes.items()} == INSTANCES
    assert len(table) == 4
    for row in table.to_dict("records"):
        first = np.array(
            Image.open(place.folder / "data/Annotations/480p" / row["video"] / "00000.png")
        )
        assert row["share"] == (first == row["object"]).mean()
        areas = []
        for path in (place.out / "dyenet-online" / "masks" / row["video"]).iterdir():
            ys, xs = (np.array(Image.open(path)) == row["object"]).nonzero()
            if len(ys):
                areas.append((np.ptp(ys) + 1) * (np.ptp(xs) + 1))
        assert row["scale_variation"] == (min(areas) / max(areas) < 0.5)
    assert set(table["size"]) == {"medium", "large"}
    assert table["occlusion"].tolist() == ["none", "heavy", "heavy", ""]
    assert table["pose"].tolist()[:2] == [False, True]
    assert table["pose"].isna().tolist() == [False, False, True, True]


def test_categories_are_means_of_their_instances(place: Place) -> None:
    table = categories(place.out)
    assert {name: str(kind) for name, kind in table.dtypes.items()} == CATEGORIES
    cells = table.set_index(["attribute", "level", "variant"])
    for variant in BUILT_UP:
        g = reports.results(place.out / f"{variant}-online").set_index(["video", "object"])["G"]
        heavy = (g["ant", 3] + g["bee", 1]) / 2
        assert cells.loc[("occlusion", "heavy", variant)].tolist() == [2, pytest.approx(heavy)]
        assert cells.loc[("pose variation", "yes", variant), "G"] == g["ant", 3]
        assert cells.loc[("occlusion", "partial", variant), "instances"] == 0
        assert np.isnan(cells.loc[("occlusion", "partial", variant), "G"])
        four = [g[place] for place in (("ant", 1), ("ant", 3), ("bee", 1), ("bee", 3))]
        assert cells.loc[("all", "all", variant), "G"] == pytest.approx(np.mean(four))


def test_page_is_one_file_that_asks_for_nothing(place: Place) -> None:
    text = (place.out / "ablation.html").read_text()
    page = Page(text)
    assert page.open == []
    local = [f"{name}/report.html" for name in RUNS]
    assert [a for a in page.addresses if not a.startswith(("data:", "#"))] == local
    assert all((place.out / address).exists() for address in local)
    assert not re.search(r"https?://|@import|url\(|fetch\(", text)
    assert not re.search(r">\s*(nan|inf|<NA>)\b", text, re.IGNORECASE)
    assert text.count("<rect") == len(BUILT_UP) * len(
        categories(place.out).dropna().drop_duplicates(["attribute", "level"])
    )
    assert sum(a.startswith("data:image/jpeg") for a in page.addresses) == 4 * len(BUILT_UP)


def test_nothing_changed_and_what_changed(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DYENET_CACHE", str(place.cache))
    assert Ablation(**place.options()).complete()
    other = place.options(sizes="0.01,0.02")
    assert not Ablation(**other).complete()
    assert engine.build(Ablation(**other))
    assert ran(capsys.readouterr().out) == {"": ["ablation"]}
    assert set(instances(place.out)["size"]) == {"large"}
    assert engine.build(Ablation(**place.options()))
    for name in ("tables/instances.csv", "ablation.html"):
        path = place.out / name
        whole = path.read_bytes()
        path.write_bytes(whole.replace(b"e", b"a", 1))
        assert not Ablation(**place.options()).complete()
        if path.suffix == ".csv":
            with pytest.raises(UserError, match=f"{path}: is not as it was written"):
                instances(place.out)
        capsys.readouterr()
        assert engine.build(Ablation(**place.options()))
        assert ran(capsys.readouterr().out) == {"": ["ablation"]}
        assert path.read_bytes() == whole


def test_what_the_weights_lack_stays_out(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DYENET_CACHE", str(place.cache))
    a = Architecture.tiny()
    lean = place.folder / "lean.safetensors"
    save(lean, a, {name: build(name, a) for name in ("trunk", "remp")}, {})
    out = place.folder / "lean"
    options = place.options(
        weights=str(lean),
        msk_weights=str(place.folder / "offline.safetensors"),
        online_weights="",
        attributes="",
        videos="bee",
        output=str(out),
    )
    assert engine.build(Ablation(**options))
    said = capsys.readouterr().out
    assert "dyenet is left out: weights" in said and "holds no rpn, mask, reid" in said
    assert " is left out" in said.splitlines()[0], "said before anything is computed"
    assert said.count("dyenet is left out") == 1
    assert "remp-no-attention is left out" in said and "msk is left out" not in said
    ours = ablation(out).query("source == 'run'").set_index(["table", "variant"])["G"]
    measured = ours.dropna().index.tolist()
    assert measured == [(1, "msk"), (1, "remp")]
    page = (out / "ablation.html").read_text()
    assert "dyenet is left out: weights" in page
    bare = place.folder / "bare.safetensors"
    save(bare, a, {"trunk": build("trunk", a)}, {})
    with pytest.raises(UserError, match="holds no msk, which variant msk needs"):
        Ablation(**{**options, "weights": str(bare), "msk_weights": str(bare)}).complete()


def test_what_online_training_left_as_it_was_stays_out(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYENET_CACHE", str(place.cache))
    half = write_halved(place.folder / "half.safetensors", reid=1, remp=1, remp_plain=1)
    out = place.folder / "half"
    options = place.options(online_weights=str(half), videos="bee", output=str(out), attributes="")
    assert engine.build(Ablation(**options))
    reason = f"msk-online is left out: weights {half}: online training left msk unchanged"
    reason += "; with learn=all it trains every network"
    assert reason in (out / "ablation.html").read_text()
    three = pd.read_csv(out / "tables/table3.csv").query("Source == 'run'").set_index("Method")
    assert three["G-mean"].isna().tolist() == [True, False, False, False, False]
    assert np.isnan(three.loc["Re-MP, full", "delta G-mean"])
    assert not (out / "msk-online").exists()
    # One video that a folder of weights did not touch makes the row none after online training.
    folder = place.folder / "folder"
    folder.mkdir()
    for video, name in (("ant", "online"), ("bee", "half")):
        (folder / f"{video}.safetensors").symlink_to(place.folder / f"{name}.safetensors")
    left_out = Ablation(**place.options(online_weights=str(folder))).planned.left_out
    assert list(left_out) == ["msk-online"] and "bee.safetensors" in left_out["msk-online"]


def test_runs_may_have_weights_of_their_own(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Table 1's two rows of Re-MP with a trunk each, and MSK tuned in a file of its own."""
    monkeypatch.setenv("DYENET_CACHE", str(place.cache))
    plain = write_weights(place.folder / "plain.safetensors", trunk=1, remp_plain=1)
    half, tuned = place.folder / "offline.safetensors", place.folder / "online.safetensors"
    task = Ablation(
        **place.options(
            online_weights=str(half),
            weights_for=f"remp-no-attention={plain},msk-online={tuned}",
        )
    )
    used = {name: recipe.videos["ant"].weights for name, recipe in task.planned.recipes.items()}
    assert used["remp-no-attention"] == str(plain) and used["remp"] == str(half)
    assert used["msk-online"] == str(tuned) and set(task.planned.left_out) == {
        "remp-online",
        "dyenet-online",
    }
    for wrong in ("remp-plain=x", "msk"):
        with pytest.raises(UserError, match=f"--weights-for {wrong}: give RUN=FILE; runs are msk,"):
            Ablation(**place.options(weights_for=wrong)).complete()


# --- scores of the server ------------------------------------------------------------

SERVED = """run,J&F-Mean,J-Mean,J-Recall,F-Mean
dyenet,0.625,0.602,0.7,0.648
msk-online,0.517,0.509,0.5,0.526
remp-online,0.610,0.591,0.6,0.628
"""


@pytest.fixture
def unscored(place: Place, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Options over a split whose annotations are not public."""
    monkeypatch.setenv("DYENET_CACHE", str(place.cache))
    data = place.folder / "test-dev"
    if not data.exists():
        write_dataset(data)
        (data / "ImageSets/2017/val.txt").rename(data / "ImageSets/2017/test-dev.txt")
        for path in data.glob("Annotations/480p/*/0000[1-9].png"):
            path.unlink()
    changed = {"root": str(data), "split": "test-dev", "attributes": "", "videos": "bee"}
    return place.options(**changed, output=str(place.folder / "served"))


def test_scores_of_the_server_fill_tables_3_and_4(place: Place, unscored: dict[str, str]) -> None:
    path = place.folder / "server.csv"
    path.write_text(SERVED)
    assert engine.build(Ablation(**unscored, server_scores=str(path)))
    out = place.folder / "served"
    three, four = (
        pd.read_csv(out / f"tables/table{n}.csv").query("Source == 'run'").set_index("Method")
        for n in (3, 4)
    )
    columns = ["J-mean", "F-mean", "G-mean"]
    assert three.loc["MSK", columns].tolist() == [50.9, 52.6, 51.7]
    assert three.loc["Re-MP, full", "delta G-mean"] == 9.3
    assert three.loc["+ Re-ID", columns].isna().all()
    assert four.loc["DyeNet (offline)", columns].tolist() == [60.2, 64.8, 62.5]
    page = (out / "ablation.html").read_text()
    assert "--server-scores</code> says: dyenet, msk-online, remp-online." in page
    assert Ablation(**unscored, server_scores=str(path)).complete()
    path.write_text(SERVED.replace("0.610", "0.611"))
    assert not Ablation(**unscored, server_scores=str(path)).complete()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run,J-Mean,F-Mean\n", "lacks the column J&F-Mean"),
        (SERVED.replace("dyenet,", "dye,"), "line 2: run 'dye' is none of msk,"),
        (SERVED.replace("remp-online", "dyenet"), "line 4: run 'dyenet' is there twice"),
        (SERVED.replace("0.509", "50.9"), "line 3: J-Mean is '50.9', must be a fraction"),
        (SERVED.replace("0.648", ""), "line 2: F-Mean is '', must be a fraction"),
    ],
)
def test_bad_scores_of_the_server(
    unscored: dict[str, str], tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "server.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        Ablation(**unscored, server_scores=str(path)).complete()
    assert "\n" not in str(caught.value)


def test_what_is_scored_here_takes_no_scores_of_the_server(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYENET_CACHE", str(place.cache))
    with pytest.raises(UserError, match="split val of davis17 has annotations"):
        Ablation(**place.options(server_scores="server.csv")).complete()


# --- Table 5 -------------------------------------------------------------------------


def davis16(root: Path) -> Path:
    """One video of one object in the layout of DAVIS 2016."""
    write_dataset(root, ("ant",))
    (root / "ImageSets/2017").rename(root / "ImageSets/480p")
    for path in root.glob("Annotations/480p/ant/*.png"):
        Image.fromarray((np.array(Image.open(path)) == 1) * np.uint8(255)).save(path)
    return root


def test_table5_of_three_datasets(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DYENET_CACHE", str(place.cache))
    folder, weights = place.folder, str(place.folder / "offline.safetensors")
    makers = {"davis16": davis16, "segtrackv2": segtrack, "youtube-objects": youtube}
    for dataset, make in makers.items():
        split = "val" if dataset == "davis16" else "all"
        common = {"dataset": dataset, "root": str(make(folder / dataset)), "split": split}
        common |= {"weights": weights, "max_iterations": "1", "precision": "fp32"}
        assert engine.build(RunDataset(**common, output=str(folder / f"{dataset}-run")))
    runs = [str(folder / f"{dataset}-run") for dataset in makers]
    online, csv = str(place.out / "dyenet-online"), folder / "table5.csv"
    capsys.readouterr()
    assert main(["table5", *runs, "--online", online, "--output", str(csv)]) == 0
    printed = capsys.readouterr().out
    table = pd.read_csv(csv).set_index(["Method", "Source"])
    j = [round(100 * reports.per_iteration(run).iloc[-1]["J"], 1) for run in (*runs, online)]
    columns = ["DAVIS16", "SegTrackv2", "YoutbObjs", "davis17 val"]
    assert table.loc[("DyeNet (offline)", "run"), columns].tolist()[:3] == j[:3]
    assert table.loc[("DyeNet", "run"), "davis17 val"] == j[3]
    assert table.loc[("DyeNet", "run"), "per-dataset"] == "yes"
    assert table.loc[("DyeNet", "run"), columns[:3]].isna().all()
    assert table.loc[("DyeNet", "paper"), columns].tolist()[:3] == [86.2, 78.7, 79.6]
    line = next(row for row in printed.splitlines() if "DyeNet (offline)" in row and "run" in row)
    assert line.split()[-4:] == [*(f"{value:.1f}" for value in j[:3]), "-"]
    for run in (*runs, online):
        assert f"{run}: profile {described(reports.read_run(Path(run))['settings'])}\n" in printed
    for wrong, message in (
        ([*runs, runs[0]], "both of davis16 val; give one"),
        ([*runs, "--online", f"{runs[0]}/."], "as before and as after online training"),
        ([str(place.out / "remp")], "a run of remp; Table 5 is of dyenet"),
        ([str(place.out)], "no run to report on"),
    ):
        assert main(["table5", *wrong]) == 1
        assert message in capsys.readouterr().err


def test_no_ablation_is_one_clear_line(tmp_path: Path) -> None:
    for read in (ablation, instances, categories):
        with pytest.raises(UserError, match="no ablation to read"):
            read(tmp_path)
