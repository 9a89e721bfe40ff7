"""The tables that reports give back, and report.html."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.export import export_video, write_run, write_scores
from pipeline.reports import (
    PER_ITERATION,
    per_frame,
    per_iteration,
    report_html,
    results,
    starts,
)
from pipeline.scoring import FRAMES, RESULTS, Rule
from tests.test_export import result, run

VOID = {"meta", "link", "img"}


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


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    poor = [np.zeros_like(mask) for mask in result("007").masks]
    from stages.scores import score_video
    from tests.test_export import Iteration, truth

    bad = result("007", masks=poor, iterations=[Iteration(1, score_video(poor, truth, (1, 2)))])
    videos = [result("walk & <run>"), bad]
    for video in videos:
        export_video(video, folder)
    write_scores(folder, videos, run())
    write_run(folder, videos, run())
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
    assert "paper: DyeNet, offline" in text
    assert ">74.1<" in text
    assert re.search(r"matches\.rho_reid</td><td>0\.8</td><td[^>]*>0\.7<", text)
    assert not re.search(r">\s*(nan|none|inf)\b", text, re.IGNORECASE)


def test_report_without_annotations_is_pictures(tmp_path: Path) -> None:
    video = result("walk", scored=False)
    settings = run(settings=run().defaults, rule=Rule("later"), dataset="folder")
    export_video(video, tmp_path)
    write_scores(tmp_path, [video], settings)
    write_run(tmp_path, [video], settings)
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
