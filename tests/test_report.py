"""The tables that reports give back, and report.html."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest

from pipeline.datasets.rules import Rule
from pipeline.errors import UserError
from pipeline.pages.compare import compare_html
from pipeline.pages.run import report_html
from pipeline.pages.sweep import sweep_html
from pipeline.reports import (
    DIFFERENCES,
    PER_ITERATION,
    SWEEP,
    differences,
    join_sweep,
    per_frame,
    per_iteration,
    results,
    save_tables,
    starts,
    sweep,
    templates,
)
from pipeline.results.export import Template, export_video
from pipeline.results.files import write_csv
from pipeline.results.scores import FRAMES, RESULTS
from pipeline.results.tables import gathered, report_is_current, reported
from stages.scores import score_video
from tests.test_export import Iteration, gather, result, run, truth

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Checks that elements nest; collects links and pictures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def write(folder: Path, shift: int, rho: float) -> Path:
    """A run of three videos, each worse than the one before, its masks `shift` px off."""
    videos = []
    for n, name in enumerate(("walk", "a-video-with-quite-a-long-name-to-break", "run")):
        masks = [np.roll(truth(j), shift * (1 + n), axis=0) for j in range(9)]
        made = result(name)
        scores = [
            Iteration(k.number, score_video(masks, truth, (1, 2)), k.counts)
            for k in made.iterations
        ]
        videos.append(
            result(
                name,
                masks=masks,
                iterations=scores,
                keys={"flow": "shared", "tubes(2)": f"{rho}"},
                seconds={"flow": 4.0, "tubes(2)": 1.5 + n},
                templates=[Template(2, 1, 4)],
            )
        )
    settings = run(settings={"matches": {"rho_reid": rho, "templates": 20}})
    for video in videos:
        export_video(video, folder)
    with gathered(folder, videos, settings):
        report_html(folder)
    return folder


def write_sweep(folder: Path, shifts: dict[float, int]) -> Path:
    """A sweep over rho_reid whose runs differ by how far their masks are off."""
    folders = {
        write(folder / f"rho_reid={rho}", shift, rho): {"matches.rho_reid": rho}
        for rho, shift in shifts.items()
    }
    write_csv(folder / "sweep.csv", join_sweep(folders))
    return folder


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("sweep"), {0.9: 2, 0.7: 1})


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    poor = [np.zeros_like(mask) for mask in result("007").masks]
    bad = result("007", masks=poor, iterations=[Iteration(1, score_video(poor, truth, (1, 2)))])
    videos = [result("walk & <run>"), bad]
    for video in videos:
        export_video(video, folder)
    gather(folder, *videos)
    return folder


def test_tables_have_the_documented_columns(out: Path) -> None:
    for table, columns in (
        (per_frame(out), FRAMES),
        (results(out), RESULTS),
        (per_iteration(out), PER_ITERATION),
    ):
        assert len(table)
        assert {name: str(kind) for name, kind in table.dtypes.items()} == columns
    assert starts(out)["first"].isna().tolist() == [False, True] * 2


def test_results_are_of_each_videos_last_iteration(out: Path) -> None:
    table = results(out).set_index(["video", "object"])
    assert table.loc[("007", 1), "J_mean"] == 0
    assert table.loc[("walk & <run>", 2), "J_mean"] == pytest.approx(13 / 15)


def test_iterations_add_the_counts_up(out: Path) -> None:
    table = per_iteration(out)
    assert table["retrieved"].tolist() == [2, 2]
    assert table["precision"].tolist() == [0.5, 0.5]
    assert table["recall"].tolist() == [1 / 16, 1 / 16]
    assert table["J"].tolist() == pytest.approx([13 / 30, 13 / 15])


def test_report_is_one_file_that_asks_for_nothing(out: Path) -> None:
    text = report_html(out).read_text()
    page = Page(text)
    assert page.open == []
    remote = [a for a in page.addresses if not a.startswith(("data:", "#", "overlays/"))]
    assert not remote
    assert not re.search(r"https?://|@import|url\(|fetch\(", text)
    assert sum(a.startswith("data:image/jpeg") for a in page.addresses) == 14
    assert "prefers-color-scheme: dark" in text


def test_report_shows_the_worst_first_beside_the_paper(out: Path) -> None:
    text = report_html(out).read_text()
    assert text.index("<h3>007") < text.index("<h3>walk &amp; &lt;run&gt;")
    assert "paper: DyeNet (offline)" in text
    assert ">74.1<" in text
    assert re.search(r"matches\.rho_reid</td><td>0\.8</td><td[^>]*>0\.7<", text)
    assert not re.search(r">\s*(nan|none|inf)\b", text, re.IGNORECASE)


def test_report_without_annotations_is_pictures(tmp_path: Path) -> None:
    video = result("walk", scored=False)
    settings = run(settings=run().defaults, rule=Rule("later"), dataset="folder")
    export_video(video, tmp_path)
    with gathered(tmp_path, [video], settings):
        report_html(tmp_path)
    text = report_html(tmp_path).read_text()
    assert "no annotations" in text
    assert text.count("data:image/jpeg") == 7
    assert "All settings are the defaults." in text
    assert not len(results(tmp_path))
    assert not len(per_iteration(tmp_path))


def test_no_run_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run\.json: no run to report on"):
        report_html(tmp_path)
    with pytest.raises(UserError, match=r"run\.json: no run to report on"):
        results(tmp_path)


def test_tables_need_no_torch() -> None:
    code = "import pipeline.reports, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_sweep_has_the_documented_columns_and_counts_shared_work_once(swept: Path) -> None:
    table = sweep(swept)
    kinds = {name: str(kind) for name, kind in table.dtypes.items()}
    assert kinds == {"matches.rho_reid": "float64", **SWEEP}
    assert table["matches.rho_reid"].tolist() == [0.9, 0.9, 0.7, 0.7]
    assert table["seconds"].tolist() == [12.0, 7.5, 0.0, 7.5]
    assert table["G"].is_monotonic_increasing
    with pytest.raises(UserError, match=r"sweep\.csv: no sweep to report on"):
        sweep(swept / "rho_reid=0.9")


def test_sweep_page_has_the_form_of_table_2(swept: Path) -> None:
    text = sweep_html(swept).read_text()
    assert Page(text).open == []
    assert "another set" not in text
    row = re.search(r"paper: Iter\. 2</td>(.*?)</tr>", text, re.DOTALL)
    assert row and re.findall(r"<td>([\d.]*)</td>", row[1]) == [
        "90.3",
        "29.3",
        "73.3",
        "68.9",
        "33.5",
        "74.1",
    ]
    assert "27.0 s in all, 1.38 times" in text
    assert not re.search(r"https?://|>\s*nan\b", text)


def test_templates_are_marked_where_they_were_added(swept: Path) -> None:
    run = swept / "rho_reid=0.9"
    assert templates(run)[["iteration", "object", "frame"]].to_numpy().tolist() == [[2, 1, 4]] * 3
    text = report_html(run).read_text()
    assert text.count('<path class="template" d="M4 0v10">') == 3
    assert "template added" in text


def test_differences_have_the_documented_columns(swept: Path) -> None:
    a, b = swept / "rho_reid=0.9", swept / "rho_reid=0.7"
    table = differences(a, b)
    assert {name: str(kind) for name, kind in table.dtypes.items()} == DIFFERENCES
    assert len(table) == 6
    assert (table["G_change"] > 0).all()
    assert table["J_b"].tolist() == results(b)["J_mean"].tolist()


def test_comparison_pairs_pictures_where_runs_differ(swept: Path, tmp_path: Path) -> None:
    a, b = swept / "rho_reid=0.9", swept / "rho_reid=0.7"
    path = compare_html(a, b)
    assert path == a / "compare-rho_reid=0.7.html"
    text = path.read_text()
    page = Page(text)
    assert page.open == []
    assert sum(at.startswith("data:image/jpeg") for at in page.addresses) == 3 * 3 * 2
    assert re.search(r"matches\.rho_reid</td><td>0\.9</td><td>0\.7<", text)
    assert text.index("<h3>run") < text.index("<h3>walk")
    assert not re.search(r"https?://|>\s*nan\b", text)
    same = compare_html(a, a, tmp_path / "same.html").read_text()
    assert "data:image/jpeg" not in same
    assert "Nothing: dataset, weights and settings are the same." in same


def test_runs_without_a_common_video_do_not_compare(swept: Path, tmp_path: Path) -> None:
    gather(tmp_path, result("other"))
    with pytest.raises(UserError, match="no video in common"):
        compare_html(swept / "rho_reid=0.9", tmp_path)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_are_saved_as_they_are(swept: Path, kind: str) -> None:
    run = swept / "rho_reid=0.9"
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    paths = save_tables(run, kind)
    assert [path.name for path in paths] == [
        f"{name}.{kind}"
        for name in ("results", "per_frame", "per_iteration", "starts", "templates", "masks")
    ]
    read = pd.read_csv if kind == "csv" else pd.read_parquet
    for path, table in zip(paths, (results(run), per_frame(run)), strict=False):
        pd.testing.assert_frame_equal(read(path), table, check_dtype=kind == "parquet")
    assert [path.name for path in save_tables(swept, kind)] == [f"sweep.{kind}"]


def test_parquet_without_pyarrow_says_what_to_install(
    swept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.reports.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'dyenet\[parquet\]'"):
        save_tables(swept, "parquet")


def test_many_videos_have_a_page_each_that_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.pages.run.EMBEDDED", 2)
    names = ["walk & <run>", "007", "ümlaut"]
    videos = [result(name) for name in names]
    for video in videos:
        export_video(video, tmp_path)
    gather(tmp_path, *videos)
    pages = {name: tmp_path / "videos" / f"{name}.html" for name in names}
    assert sorted((tmp_path / "videos").iterdir()) == sorted(pages.values())
    whole = Page((tmp_path / "report.html").read_text())
    linked = [unquote(at) for at in whole.addresses if at.startswith("videos/")]
    assert sorted(linked) == sorted(f"videos/{name}.html" for name in names)
    assert not any(at.startswith("data:image") for at in whole.addresses)
    page = Page(pages["007"].read_text())
    assert page.open == []
    assert sum(at.startswith("data:image/jpeg") for at in page.addresses) == 7
    assert all((tmp_path / "videos" / at).exists() for at in page.addresses if at[:3] == "../")
    made = {name: path.stat().st_mtime_ns for name, path in pages.items()}
    changed = result("007", seconds={"flow": 99.0})
    more = result("more")
    export_video(more, tmp_path)
    gather(tmp_path, changed, more)
    again = {name: path.stat().st_mtime_ns for name, path in pages.items()}
    assert {name for name in names if again[name] != made[name]} == {"007"}
    assert "1 min 39 s" in pages["007"].read_text()
    assert (tmp_path / "videos/more.html").exists()
    keys = {"tubes(2)": "abc"}
    assert report_is_current(tmp_path, run().settings, {name: [keys] for name in names})
    before = pages["ümlaut"].read_bytes()
    pages["ümlaut"].write_bytes(before[:-9])
    assert not report_is_current(tmp_path, run().settings, {"ümlaut": [keys]})
    gather(tmp_path)
    assert pages["ümlaut"].read_bytes() == before


def test_the_table_of_the_report_is_bounded(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.pages.run.ROWS", 1)
    text = report_html(out).read_text()
    assert text.count('<tr><td><a href="#v-') == 1
    assert "1 of 2; the pages of all" in text


def test_rows_of_a_video_are_known_by_its_keys(tmp_path: Path) -> None:
    gather(tmp_path, result("walk"))
    assert reported(tmp_path, "walk", [{"tubes(2)": "def"}, {"tubes(2)": "abc"}])
    assert not reported(tmp_path, "walk", [{"tubes(2)": "def"}])
    assert not reported(tmp_path, "run", [{"tubes(2)": "abc"}])
