"""The tables of an output folder and its run.json, which cover every video that is there.

    OUT/scores/*.csv    tables, see pipeline/reports.py
    OUT/run.json        settings, keys, versions, times
    OUT/videos/*.html   a page for each video, where there are many (pipeline/pages/video.py)

Each video's rows are kept in OUT/.made/<video>.rows, and the tables are those of all videos
joined: a run brings those that have changed and keeps the others.
"""

from __future__ import annotations

import io
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.datasets.rules import Rule
from pipeline.results.claim import alone
from pipeline.results.export import (
    DRAWN,
    ITERATIONS,
    STARTS,
    TEMPLATES,
    VideoResult,
    drawn_file,
    ledger_of,
    pictured,
)
from pipeline.results.files import read_table, write_text
from pipeline.results.made import (
    MADE,
    REPORT,
    Ledger,
    digest_of,
    listed_videos,
    present,
    read_record,
    refuse_foreign,
    write_record,
)
from pipeline.results.overlays import FPS
from pipeline.results.review import MASKS, worth_a_look
from pipeline.results.scores import (
    FRAMES,
    frame_table,
    join_frames,
    last_iteration,
    official,
    results,
    totals,
)
from stages.scores import StartCounts

VERSION = 2
"""of the tables, run.json and the report; a new number writes them anew"""
ROWS = 1
"""of what is kept of a video; a new number gathers it anew"""
PAGE = "report.html"
CHANGES = {name: kind for name, kind in MASKS.items() if name != "confidence"}
"""columns of scores/changes.csv; pixels: how many are not as in the masks that lay there before"""
COLUMNS = {
    "frames": FRAMES,
    "iterations": ITERATIONS,
    "starts": STARTS,
    "templates": TEMPLATES,
    "masks": MASKS,
    "changes": CHANGES,
}
"""of the tables, by name"""


@dataclass(frozen=True)
class Run:
    """What a run was asked for, as written to run.json."""

    command: str
    dataset: str
    split: str
    variant: str
    weights: str
    rule: Rule
    settings: Mapping[str, Mapping[str, Any]]
    """by section (RunSettings.to_dict())"""
    defaults: Mapping[str, Mapping[str, Any]]
    versions: Mapping[str, str]
    """of the programs and libraries involved"""
    started: str
    """ISO 8601 with time zone"""
    seconds: float
    """wall time of the whole run"""


@contextmanager
def gathered(out: Path, videos: Sequence[VideoResult], run: Run) -> Iterator[None]:
    """Write run.json and OUT/scores for all videos of the folder; the page is made in the block.

    videos: those whose rows take the place of what was there of them. Without
    annotations there are no frames.csv and iterations.csv, without earlier masks there is no
    changes.csv. No other process writes the folder's tables meanwhile.
    """
    with alone(out):
        for video in videos:
            write_record(_rows_file(out, video.name), _rows(out, video, run.rule))
        files = _files(_known(out), run)
        ledger = _ledger(out)
        earlier = () if ledger.owns() else _earlier(out)
        ledger.begin([*files, PAGE], earlier)
        for name, text in files.items():
            write_text(out / name, text)
        yield
        ledger.finish([*files, PAGE], VERSION)


def reported(out: Path, video: str, keys: Sequence[Mapping[str, str]]) -> bool:
    """Whether the folder's rows of a video are those of its artifacts.

    keys: of each by label; several where either would do.
    """
    kept = read_record(_rows_file(out, video))
    return kept.get("rows") == ROWS and kept["about"]["keys"] in keys


def video_page(out: Path, video: str, version: int) -> tuple[Ledger, Any]:
    """The ledger of a video's page, and what a page of this version would be made from now."""
    kept = _rows_file(out, video), ledger_of(out, video).path
    known = [digest_of(path) if path.exists() else secrets.token_hex() for path in kept]
    return Ledger(out, f"{video}.page"), {"page": version, "records": known}


def report_is_current(
    out: Path,
    settings: Mapping[str, Mapping[str, Any]],
    keys: Mapping[str, Sequence[Mapping[str, str]]],
) -> bool:
    """Whether tables, run.json and report are whole and show these settings and videos.

    keys: of every artifact by label, by video; several where either would do. Waits while
    another process writes them.
    """
    if not _whole(out):
        return False
    if any(Ledger(out, f"{video}.page").damaged(f"videos/{video}.html") for video in keys):
        return False
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    videos = run["videos"]
    return run["settings"] == settings and all(
        video in videos and videos[video]["keys"] in made for video, made in keys.items()
    )


def _whole(out: Path) -> bool:
    ledger = _ledger(out)
    if ledger.whole(VERSION):
        return True
    if not ledger.owns():
        return False
    with alone(out):
        return ledger.whole(VERSION)


def refuse_foreign_report(out: Path) -> None:
    """UserError if a run.json or report lies there that this program did not write."""
    if not _ledger(out).path.exists() and not _earlier(out):
        for name in ("run.json", PAGE):
            refuse_foreign(out / name)


def unreported(out: Path) -> list[str]:
    """Videos that have files in the folder, but no rows in its tables."""
    return sorted(present(out) - listed_videos(out))


def _ledger(out: Path) -> Ledger:
    return Ledger(out, REPORT)


def _earlier(out: Path) -> list[str]:
    """Files of a run whose record is damaged, or whose version kept none."""
    if not _ledger(out).path.exists() and not listed_videos(out):
        return []
    names = [*(f"scores/{name}.csv" for name in COLUMNS), "run.json", PAGE]
    official = (out / "scores").glob("*_results-*.csv")
    return [*names, *(path.relative_to(out).as_posix() for path in official)]


def _rows_file(out: Path, video: str) -> Path:
    return out / MADE / f"{video}.rows"


def _known(out: Path) -> dict[str, dict[str, Any]]:
    """The rows of every video of the folder, in the order of their names."""
    records = {name: read_record(_rows_file(out, name)) for name in sorted(present(out))}
    return {name: record for name, record in records.items() if record}


def _rows(out: Path, video: VideoResult, rule: Rule) -> dict[str, Any]:
    """What the folder's tables and run.json hold of a video; tables as CSV without a head."""
    frames, drawn = join_frames(_frame_tables(video, rule)), _drawn(out, video.name)
    changed = drawn[drawn["changed"].fillna(0) > 0]
    tables = {
        "frames": frames,
        "iterations": _iterations(video, frames),
        "starts": pd.DataFrame(map(asdict, video.starts)).assign(video=video.name),
        "templates": pd.DataFrame(map(asdict, video.templates)).assign(video=video.name),
        "masks": drawn,
        "changes": changed.assign(pixels=changed["changed"]),
    }
    csv = {name: _csv(table, COLUMNS[name]) for name, table in tables.items()}
    return {"rows": ROWS, "about": _about(video, drawn), "tables": csv}


def _drawn(out: Path, video: str) -> pd.DataFrame:
    """DRAWN of a video; empty where it was not exported here."""
    path = drawn_file(out, video)
    if path.exists():
        return read_table(path, DRAWN)
    return pd.DataFrame({name: [] for name in DRAWN}).astype(DRAWN)


def _about(video: VideoResult, drawn: pd.DataFrame) -> dict[str, Any]:
    """What run.json holds of a video."""
    looks = worth_a_look(drawn, video.given)
    return {
        "frames": len(video.frame_names),
        "size": list(video.frames.size),
        "fps": video.frames.fps or FPS,
        "objects": list(video.objects),
        **({"names": {str(i): name for i, name in video.names.items()}} if video.names else {}),
        "given": sorted(video.given),
        "given_names": [video.frame_names[n] for n in sorted(video.given)],
        **({"asked": dict(video.asked)} if video.asked else {}),
        "frame_names": [video.frame_names[n] for n in pictured(len(video.frame_names))],
        "look": [asdict(look) | {"name": video.frame_names[look.frame]} for look in looks],
        "keys": dict(video.keys),
        "seconds": dict(video.seconds),
    }


def _csv(table: pd.DataFrame, columns: Mapping[str, str]) -> str:
    """Rows of a table as CSV without a head, with every digit."""
    typed = table.reindex(columns=list(columns)).astype(dict(columns))
    return typed.to_csv(index=False, header=False, lineterminator="\n")


def _files(known: Mapping[str, Mapping[str, Any]], run: Run) -> dict[str, str]:
    """Text of every table and of run.json, by name below the output folder."""
    joined = {
        name: ",".join(columns) + "\n" + "".join(rows["tables"][name] for rows in known.values())
        for name, columns in COLUMNS.items()
    }
    frames = read_table(io.StringIO(joined["frames"]), FRAMES)
    files = {f"scores/{name}.csv": joined[name] for name in ("starts", "templates", "masks")}
    if any(rows["tables"]["changes"] for rows in known.values()):
        files["scores/changes.csv"] = joined["changes"]
    if len(frames):
        table = read_table(io.StringIO(joined["iterations"]), ITERATIONS)
        table = table.sort_values(["iteration", "video"], ignore_index=True)
        files["scores/frames.csv"] = joined["frames"]
        files["scores/iterations.csv"] = table.to_csv(index=False, lineterminator="\n")
        scored = official(results(last_iteration(frames)), run.split, run.rule.average)
        files |= {f"scores/{name}": text for name, text in scored.items()}
    about = {name: rows["about"] for name, rows in known.items()}
    text = json.dumps({**asdict(run), "videos": about}, indent=1, ensure_ascii=False)
    return files | {"run.json": text + "\n"}


def _frame_tables(video: VideoResult, rule: Rule) -> list[pd.DataFrame]:
    total = len(video.frame_names)
    return [
        frame_table(video.name, k.number, k.scores, lambda n: rule.counts(n, total, video.given))
        for k in video.iterations
        if k.scores is not None
    ]


def _iterations(video: VideoResult, frames: pd.DataFrame) -> pd.DataFrame:
    """ITERATIONS: a row for each iteration that has scores."""
    rows = []
    for k in video.iterations:
        if k.scores is None:
            continue
        table = results(frames[frames["iteration"] == k.number])
        means = totals(table)
        counts = k.counts or StartCounts(0, 0, 0, 0)
        counted = counts.correct, counts.total, counts.found, counts.visible
        measured = means["J_mean"], means["F_mean"], means["G"]
        rows.append((k.number, video.name, len(table), *counted, *measured))
    return pd.DataFrame(rows, columns=list(ITERATIONS))
