"""A/compare-<B>.html: two runs side by side, with pictures where they differ most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.errors import UserError
from pipeline.pages.page import line, picture, write_page
from pipeline.plan.settings import described
from pipeline.reports import DIFFERENCES, differences, per_frame, read_run, results, rule_used
from pipeline.results.files import masks_in
from pipeline.results.overlays import encode_picture
from pipeline.results.scores import last_iteration, totals
from stages.films import Decoder, Unreadable
from stages.types import Image

PICTURED = 8
"""videos with pictures, at most"""
PAIRS = 3
"""pairs of pictures of a video, at most"""
WIDTH = 420
"""px of a picture"""


def compare_html(a: str | Path, b: str | Path, output: str | Path | None = None) -> Path:
    """Write a page that compares run b with run a, one file that needs no other; its path.

    output: the file, by default A/compare-<name of B>.html. UserError if one of the folders
    holds no run, or if the two have no video in common.
    """
    folders = Path(a), Path(b)
    runs = [read_run(folder) for folder in folders]
    common = [name for name in runs[0]["videos"] if name in runs[1]["videos"]]
    if not common:
        raise UserError(f"{a} and {b}: these runs have no video in common")
    scores, curves = differences(a, b), [_curves(folder) for folder in folders]
    changes = {name: _changes(folders, name) for name in common}
    order = sorted(common, key=lambda name: -float(changes[name].mean()))
    shown = [name for name in order if changes[name].any()][:PICTURED]
    return write_page(
        Path(output) if output else folders[0] / f"compare-{folders[1].resolve().name}.html",
        "compare.html",
        names=[str(folder) for folder in folders],
        profiles=[described(run["settings"]) for run in runs],
        runs=runs,
        alone=[sorted(set(one["videos"]) - set(common)) for one in runs],
        means=[_means(folder, run, common) for folder, run in zip(folders, runs, strict=True)],
        scored=bool(len(scores)),
        settings=_settings(*runs),
        videos=[_row(name, scores, changes[name]) for name in order],
        parts=[_part(name, folders, runs[0], curves, changes[name]) for name in shown],
    )


@dataclass(frozen=True)
class VideoRow:
    """A video's line of the table."""

    name: str
    scores: Mapping[str, float]
    """means over its objects by column of differences(); empty without annotations"""
    changed: float
    """mean over frames of the share of object pixels that are not the same in both"""
    frames: int
    """how many frames are not the same"""


@dataclass(frozen=True)
class VideoPart:
    """A video with its pictures."""

    name: str
    frames: int
    curves: Sequence[str]
    """J over time of each run, mean over objects, as SVG paths; empty without annotations"""
    pairs: Sequence[tuple[str, float, str, str]]
    """(frame, share of object pixels that differ, picture of a, picture of b)"""


def _means(folder: Path, run: Mapping[str, Any], videos: Sequence[str]) -> dict[str, float]:
    """Totals over the videos that both runs have."""
    table = results(folder)
    return totals(table[table["video"].isin(videos)], rule_used(run).average)


def _curves(folder: Path) -> dict[tuple[str, int], float]:
    """J by video and frame after the last iteration, mean over the objects."""
    means = (
        last_iteration(per_frame(folder)).groupby(["video", "frame"], as_index=False)["J"].mean()
    )
    return {(video, int(j)): value for video, j, value in means.to_numpy()}


def _settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """What the runs were asked for that is not the same: name, a, b."""
    asked = [
        {name: run[name] for name in ("dataset", "split", "weights")}
        | {f"{s}.{name}": v for s, values in run["settings"].items() for name, v in values.items()}
        for run in (a, b)
    ]
    names = dict.fromkeys([*asked[0], *asked[1]])
    pairs = [(name, asked[0].get(name), asked[1].get(name)) for name in names]
    return [(name, x, y) for name, x, y in pairs if x != y]


def _changes(folders: Sequence[Path], video: str) -> npt.NDArray[np.float64]:
    """Per frame, the share of either run's object pixels that differ between the two."""
    files = [masks_in(folder / "masks" / video) for folder in folders]
    if [path.name for path in files[0]] != [path.name for path in files[1]]:
        raise UserError(f"video {video}: the two runs have masks of other frames")
    return np.array([_change(_read(x), _read(y), video) for x, y in zip(*files, strict=True)])


def _change(a: Image, b: Image, video: str) -> float:
    if a.shape != b.shape:
        raise UserError(f"video {video}: the two runs have masks of other sizes")
    either = np.count_nonzero((a > 0) | (b > 0))
    return np.count_nonzero(a != b) / either if either else 0.0


def _read(mask: Path) -> Image:
    from PIL import Image as Pillow

    try:
        with Pillow.open(mask) as file:
            return np.asarray(file)
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(
            f"{mask}: cannot be read ({error}); run the same command again to mend it"
        ) from error


def _row(name: str, scores: pd.DataFrame, changes: npt.NDArray[np.float64]) -> VideoRow:
    mine = scores[scores["video"] == name]
    measured = [column for column, kind in DIFFERENCES.items() if kind == "float64"]
    means = {column: float(mine[column].mean()) for column in measured} if len(mine) else {}
    return VideoRow(name, means, float(changes.mean()), int((changes > 0).sum()))


def _part(
    name: str,
    folders: Sequence[Path],
    run: Mapping[str, Any],
    curves: Sequence[Mapping[tuple[str, int], float]],
    changes: npt.NDArray[np.float64],
) -> VideoPart:
    frames = run["videos"][name]["frames"]
    lines = [
        line((j, 100 - 100 * value) for (video, j), value in scores.items() if video == name)
        for scores in curves
    ]
    chosen = _most_different(changes, max(1, frames // 8))
    films = [_film(folder / "overlays" / f"{name}.mp4", chosen) for folder in folders]
    masks = masks_in(folders[0] / "masks" / name)
    pairs = [
        (masks[j].stem, float(changes[j]), films[0][j], films[1][j])
        for j in chosen
        if j in films[0] and j in films[1]
    ]
    return VideoPart(name, frames, lines, pairs)


def _most_different(changes: npt.NDArray[np.float64], gap: int) -> list[int]:
    """The frames that differ most, at least `gap` frames between any two, in order of time."""
    found: list[int] = []
    for j in np.argsort(-changes, kind="stable").tolist():
        if len(found) == PAIRS or not changes[j]:
            break
        if all(abs(j - other) >= gap for other in found):
            found.append(j)
    return sorted(found)


def _film(path: Path, wanted: Sequence[int]) -> dict[int, str]:
    """Frames of an overlay video as pictures."""
    import cv2

    found: dict[int, str] = {}
    with suppress(Unreadable), closing(Decoder(path)) as film:
        for j in range(max(wanted, default=-1) + 1):
            if not film.grab():
                break
            if j in wanted:
                image = film.image()
                size = WIDTH, max(1, round(image.shape[0] * WIDTH / image.shape[1]))
                small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
                found[j] = picture(encode_picture(small))
    return found
