"""Results of a run, a sweep or two runs as pandas tables.

The functions read what export wrote below OUT and need nothing else:

    from pipeline.reports import results
    results("runs/davis16-val-dyenet").groupby("video")["G"].mean()
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from cache.files import write_file
from pipeline.datasets.rules import Rule
from pipeline.errors import UserError
from pipeline.plan.settings import find
from pipeline.results import scores
from pipeline.results.export import ITERATIONS, STARTS, TEMPLATES, pictured
from pipeline.results.files import read_table, write_csv
from pipeline.results.made import check_undamaged
from pipeline.results.review import MASKS
from pipeline.results.scores import FRAMES, last_iteration, totals
from pipeline.results.tables import CHANGES

PER_ITERATION = {
    **{name: kind for name, kind in ITERATIONS.items() if name not in ("video", "J", "F", "G")},
    "precision": "float64",
    "recall": "float64",
    "J": "float64",
    "F": "float64",
    "G": "float64",
}
"""columns of per_iteration()"""
SWEEP = {**PER_ITERATION, "seconds": "float64"}
"""columns of sweep(), after those of the swept settings"""
DIFFERENCES = {
    "video": "str",
    "object": "int64",
    **{f"{measure}_{run}": "float64" for measure in "JFG" for run in "ab"},
    "G_change": "float64",
}
"""columns of differences()"""
RUN = {
    **dict.fromkeys(("command", "dataset", "split", "variant", "weights", "started"), str),
    **dict.fromkeys(("rule", "settings", "defaults", "versions", "videos"), dict),
    "seconds": float,
}
"""types of what run.json holds"""
VIDEO = {
    "frames": int,
    **dict.fromkeys(("size", "objects", "given", "frame_names"), list),
    **dict.fromkeys(("keys", "seconds"), dict),
}
"""types of what it holds of each video"""
FORMATS = ("csv", "parquet")
"""of save_tables()"""


def per_frame(out_dir: str | Path) -> pd.DataFrame:
    """J and F of every annotated frame, object and iteration.

    Columns (results.scores.FRAMES): video str; frame int64, from 0; object int64; iteration int64,
    from 1; J, F float64 0..1; scored bool, whether the frame counts towards the means.
    Empty without annotations. UserError if out_dir holds no run.
    """
    return _table(Path(out_dir), "frames.csv", FRAMES)


def results(out_dir: str | Path) -> pd.DataFrame:
    """Final scores, a row for each video and object.

    Columns (results.scores.RESULTS): video str; object, frames int64; J_mean, J_recall, J_decay,
    F_mean, F_recall, F_decay, G float64 as fractions. Empty without annotations. UserError
    if out_dir holds no run.
    """
    return scores.results(last_iteration(per_frame(out_dir)))


def per_iteration(out_dir: str | Path) -> pd.DataFrame:
    """Retrieval and scores after each iteration, over the whole set (Table 2).

    Columns (PER_ITERATION): iteration int64; objects int64; correct, retrieved, found,
    visible int64, counts of starting points as in stages.scores.StartCounts; precision,
    recall, J, F, G float64 as fractions, NaN where nothing was counted. Empty without
    annotations. UserError if out_dir holds no run.
    """
    out = Path(out_dir)
    counts = _table(out, "iterations.csv", ITERATIONS)
    frames = per_frame(out)
    average = rule_used(read_run(out)).average if len(counts) else ""
    rows = []
    for k, part in counts.groupby("iteration"):
        sums = {name: int(part[name].sum()) for name in list(ITERATIONS)[2:7]}
        means = totals(scores.results(frames[frames["iteration"] == k]), average)
        precision = _share(sums["correct"], sums["retrieved"])
        recall = _share(sums["found"], sums["visible"])
        measured = means["J_mean"], means["F_mean"], means["G"]
        rows.append((k, *sums.values(), precision, recall, *measured))
    return pd.DataFrame(rows, columns=list(PER_ITERATION)).astype(PER_ITERATION)


def starts(out_dir: str | Path) -> pd.DataFrame:
    """Every starting point and the tracklet it became.

    Columns (results.export.STARTS): video str; iteration, object, frame int64; similarity float64;
    given bool; first, last Int64, the tracklet's span, missing where it was skipped; merged
    bool. UserError if out_dir holds no run.
    """
    return _table(Path(out_dir), "starts.csv", STARTS)


def templates(out_dir: str | Path) -> pd.DataFrame:
    """Masks that served as templates besides the given ones (section 3.3).

    Columns (results.export.TEMPLATES): video str; iteration, object, frame int64. Every iteration
    chooses its templates anew, from the masks of the one before. UserError if out_dir holds
    no run.
    """
    return _table(Path(out_dir), "templates.csv", TEMPLATES)


def masks(out_dir: str | Path) -> pd.DataFrame:
    """How much of every object each frame shows, and how sure that is; known without annotations.

    Columns (results.review.MASKS): video str; frame int64, from 0; object int64; pixels int64, of
    the frame as it was given; confidence float64 0..1, the mean probability over them, 0 without
    any and 1 where the mask was given. UserError if out_dir holds no run.
    """
    return _table(Path(out_dir), "masks.csv", MASKS)


def changes(out_dir: str | Path) -> pd.DataFrame:
    """Where masks are not those that an earlier run had left in the folder.

    Columns (results.tables.CHANGES): video str; frame, object int64; pixels int64, how many
    belong to the object in one of both only, above 0. Empty where none had. UserError if out_dir
    holds no run.
    """
    return _table(Path(out_dir), "changes.csv", CHANGES)


def sweep(out_dir: str | Path) -> pd.DataFrame:
    """Retrieval, scores and cost of every value of a sweep after each iteration (Table 2).

    Columns: the swept settings by full name, such as `matches.rho_reid`, of the setting's own
    type (int64, float64 or str); those of per_iteration(); seconds float64, the time that
    stages took for this row beyond what the rows above had made already. What a video needs
    once counts to its first iteration, so the sum over a value is what it cost beyond the
    values before it. Empty without annotations. UserError if out_dir holds no sweep.
    """
    path = Path(out_dir) / "sweep.csv"
    if not path.exists():
        raise UserError(f"{path}: no sweep to report on; give the --output of a SweepThreshold")
    check_undamaged(Path(out_dir), "sweep.csv")
    head = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0].split(",")
    swept = head[: head.index("iteration")] if "iteration" in head else []
    return read_table(path, {**{name: _kind(name) for name in swept}, **SWEEP})


def join_sweep(folders: Mapping[Path, Mapping[str, Any]]) -> pd.DataFrame:
    """sweep() from the runs themselves: the swept settings by the folder of their run."""
    tables, seen = [], set[tuple[str, str]]()
    for folder, swept in folders.items():
        table, spent = per_iteration(folder), _spent(read_run(folder), seen)
        table["seconds"] = [spent.get(k, 0.0) for k in table["iteration"]]
        for place, (name, value) in enumerate(swept.items()):
            table.insert(place, name, pd.Series(value, table.index, _kind(name)))
        tables.append(table)
    return pd.concat(tables, ignore_index=True).astype(SWEEP)


def differences(a: str | Path, b: str | Path) -> pd.DataFrame:
    """Final scores of two runs side by side, a row for each video and object of either.

    Columns (DIFFERENCES): video str; object int64; J_a, J_b, F_a, F_b, G_a, G_b float64 as
    fractions, means over the scored frames, NaN where a run lacks the object; G_change
    float64, G_b - G_a. UserError if one of the folders holds no run.
    """
    both = results(a).merge(results(b), "outer", ["video", "object"], suffixes=("_a", "_b"))
    both = both.rename(columns={f"{m}_mean_{run}": f"{m}_{run}" for m in "JF" for run in "ab"})
    both["G_change"] = both["G_b"] - both["G_a"]
    return both[list(DIFFERENCES)].astype(DIFFERENCES)


def save_tables(out_dir: str | Path, kind: str) -> list[Path]:
    """Write every table of a run or a sweep to OUT/tables/<name>.<kind>; their paths.

    kind: one of FORMATS; parquet keeps the types and needs pyarrow. UserError if out_dir
    holds neither, if kind is unknown, or if pyarrow is missing.
    """
    out = Path(out_dir)
    if kind not in FORMATS:
        raise UserError(f"--tables {kind}: must be one of {', '.join(FORMATS)}")
    if kind == "parquet" and find_spec("pyarrow") is None:
        raise UserError("--tables parquet: needs pyarrow; pip install 'dyenet[parquet]'")
    of_run: tuple[Callable[[Path], pd.DataFrame], ...]
    of_run = (results, per_frame, per_iteration, starts, templates, masks)
    paths = []
    for read in (sweep,) if (out / "sweep.csv").exists() else of_run:
        paths.append(out / "tables" / f"{read.__name__}.{kind}")
        if kind == "csv":
            write_csv(paths[-1], read(out))
        else:
            _write_parquet(paths[-1], read(out))
    return paths


def read_run(out: Path) -> dict[str, Any]:
    """OUT/run.json; UserError if there is none."""
    path = out / "run.json"
    check_undamaged(out, path.name)
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no run to report on; give the --output of a run") from error
    if not _is_run(run):
        raise UserError(f"{path}: damaged; run the same command again to have it written anew")
    return dict(run)


def _is_run(run: Any) -> bool:
    """Whether what run.json holds has the form that write gives it."""
    if not _has(run, RUN) or set(run["rule"]) != {"frames", "average"}:
        return False
    if not all(isinstance(run[part], dict) for part in ("settings", "defaults")):
        return False
    sections = [*run["settings"].values(), *run["defaults"].values()]
    return all(isinstance(part, dict) for part in sections) and all(
        map(_is_video, run["videos"].values())
    )


def _is_video(about: Any) -> bool:
    return (
        _has(about, VIDEO)
        and about["frames"] > 0
        and len(about["size"]) == 2
        and all(isinstance(n, int) for part in ("size", "objects", "given") for n in about[part])
        and len(about["frame_names"]) == len(pictured(about["frames"]))
        and all(isinstance(spent, int | float) for spent in about["seconds"].values())
    )


def _has(values: Any, form: Mapping[str, type]) -> bool:
    """Whether a mapping has items of these types."""
    if not isinstance(values, dict):
        return False
    return all(isinstance(values.get(name), kind) for name, kind in form.items())


def rule_used(run: Mapping[str, Any]) -> Rule:
    """The rule that a run was scored by."""
    return Rule(**run["rule"])


def _write_parquet(path: Path, table: pd.DataFrame) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, table.to_parquet(index=False))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def _spent(run: Mapping[str, Any], seen: set[tuple[str, str]]) -> dict[int, float]:
    """Stage seconds by iteration of what is not yet in seen, (video, key); they are added."""
    spent: dict[int, float] = {}
    for video, about in run["videos"].items():
        for label, seconds in about["seconds"].items():
            made = (video, about["keys"][label])
            if made not in seen:
                seen.add(made)
                number = re.search(r"\((\d+)\)", label)
                k = int(number[1]) if number else 1
                spent[k] = spent.get(k, 0.0) + seconds
    return spent


def _kind(name: str) -> str:
    """dtype of a setting's column."""
    return {int: "int64", float: "float64"}.get(type(find(name).default), "str")


def _table(out: Path, name: str, columns: Mapping[str, str]) -> pd.DataFrame:
    path = out / "scores" / name
    check_undamaged(out, f"scores/{name}")
    if path.exists():
        return read_table(path, columns)
    read_run(out)
    return pd.DataFrame({column: [] for column in columns}).astype(dict(columns))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
