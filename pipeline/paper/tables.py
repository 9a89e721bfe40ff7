"""Tables 1 to 5 and Fig. 6 of the paper, from the runs of an Ablation.

Ablation (pipeline/commands/ablation.py) runs the variants; here their scores are set next to the
paper's. The functions that read need nothing but the output folder:

    from pipeline.paper.tables import ablation
    ablation("runs/davis17-val-ablation").query("table == 1")

    OUT/<variant>/, OUT/<variant>-online/   each run, as RunDataset leaves it
    OUT/tables/table1.csv ... table5.csv    in the paper's form, in percent
    OUT/tables/ablation.csv                 Tables 1, 3, 4 and 5 as ablation() returns them
    OUT/tables/instances.csv, figure6.csv   Fig. 6: categories, and G by category and stage
    OUT/ablation.html                       all of it as one page
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import reports
from pipeline.datasets import LAYOUTS
from pipeline.errors import UserError
from pipeline.paper.attributes import OCCLUSION, SIZES
from pipeline.paper.published import (
    GAIN_OVER,
    PER_DATASET,
    PER_VIDEO,
    PUBLISHED,
    RETRIEVAL,
    TUNED,
    Published,
)
from pipeline.paper.server import Scores
from pipeline.plan.recipe import Recipe
from pipeline.plan.variants import BUILT_UP, FULL
from pipeline.results.files import read_table, write_csv
from pipeline.results.made import check_undamaged

ABLATION = {
    "table": "int64",
    "method": "str",
    "variant": "str",
    "source": "str",
    "dataset": "str",
    "split": "str",
    "per_dataset": "bool",
    "per_video": "bool",
    "ensemble": "bool",
    "J": "float64",
    "F": "float64",
    "G": "float64",
    "delta_G": "float64",
}
"""columns of ablation()"""
INSTANCES = {
    "video": "str",
    "object": "int64",
    "share": "float64",
    "size": "str",
    "scale_variation": "bool",
    "occlusion": "str",
    "pose": "boolean",
}
"""columns of instances()"""
CATEGORIES = {
    "attribute": "str",
    "level": "str",
    "variant": "str",
    "instances": "int64",
    "G": "float64",
}
"""columns of categories()"""

FILES = [
    f"tables/{name}.csv"
    for name in ("ablation", "instances", "figure6", *(f"table{n}" for n in range(1, 6)))
]
"""what write_ablation() leaves below the output folder"""

NAMES = {
    (row.dataset, row.split): LAYOUTS[row.dataset].label for row in PUBLISHED if row.table == 5
}
"""headings of Table 5"""
LEVELS = {
    "all": ("all",),
    "size": SIZES,
    "scale variation": ("no", "yes"),
    "occlusion": OCCLUSION,
    "pose variation": ("no", "yes"),
}
"""Fig. 6's attributes"""


def ablation(out: str | Path) -> pd.DataFrame:
    """Tables 1, 3, 4 and 5: the rows of an Ablation next to the paper's and its peers'.

    Columns (ABLATION): table int64; method str, the row as the paper names it; variant str,
    empty for another method; source str: run (measured here), paper, or peer (another method,
    as the paper cites it); dataset, split str; per_dataset, per_video, ensemble bool, the
    online training it had and whether it is an ensemble; J, F, G, delta_G float64 as
    fractions, NaN where not measured. In Table 5 J is the mIoU, a row for each dataset.
    UserError if `out` holds no ablation.
    """
    return _table(Path(out), "ablation", ABLATION)


def instances(out: str | Path) -> pd.DataFrame:
    """Fig. 6's categories of every instance.

    Columns (INSTANCES): video str; object int64; share float64, of the frame that the first
    mask covers; size str: small, medium, large; scale_variation bool; occlusion str: none,
    partial, heavy, or empty where --attributes does not say; pose boolean, missing likewise.
    UserError if `out` holds no ablation.
    """
    return _table(Path(out), "instances", INSTANCES)


def categories(out: str | Path) -> pd.DataFrame:
    """Fig. 6: G by category and stage of the method.

    Columns (CATEGORIES): attribute, level, variant str; instances int64, how many are of the
    level; G float64, their mean as a fraction, NaN where there is none or no annotation.
    UserError if `out` holds no ablation.
    """
    return _table(Path(out), "figure6", CATEGORIES)


def _table(out: Path, name: str, columns: Mapping[str, str]) -> pd.DataFrame:
    path = out / "tables" / f"{name}.csv"
    check_undamaged(out, f"tables/{name}.csv")
    if not path.is_file():
        raise UserError(f"{path}: no ablation to read; give the --output of an Ablation")
    return read_table(path, columns)


@dataclass(frozen=True)
class Asked:
    """What an Ablation was asked for."""

    dataset: str
    split: str
    recipes: Mapping[str, Recipe]
    """by name of the run"""
    left_out: Mapping[str, str]
    """why a run is not among them"""
    online: str
    """kind of online training of the runs named `<variant>-online`"""
    sizes: tuple[float, float]
    judged: pd.DataFrame | None
    """attributes() of pipeline/paper/attributes.py"""
    server: Mapping[str, Scores]
    """what the benchmark's server returned, by name of the run"""


@dataclass(frozen=True)
class Written:
    """What the page of an Ablation shows."""

    forms: Mapping[int, pd.DataFrame]
    """Tables 1 to 5 as the paper prints them"""
    instances: pd.DataFrame
    """INSTANCES"""
    figure: pd.DataFrame
    """CATEGORIES"""
    stages: Mapping[str, Path]
    """the folder of each variant's run that Figs. 5 and 6 show"""


def write_ablation(out: Path, asked: Asked, found: pd.DataFrame) -> Written:
    """Write OUT/tables from the runs below OUT; found: INSTANCES of all videos."""
    runs = {name: out / name for name in asked.recipes}
    scores = {name: _scores(run) for name, run in runs.items()} | dict(asked.server)
    rows = compare(scores, asked.dataset, asked.split, asked.online)
    rho_reid = next(iter(asked.recipes.values())).settings.matches.rho_reid
    forms = {n: in_paper_form(rows, n) for n in (1, 3, 4, 5)}
    forms[2] = retrieved(runs.get(FULL), rho_reid)
    stages = staged(runs)
    figure = by_category(found, {name: reports.results(run) for name, run in stages.items()})
    tables = {"ablation": rows, "instances": found, "figure6": figure}
    for name, table in (tables | {f"table{n}": form for n, form in forms.items()}).items():
        write_csv(out / "tables" / f"{name}.csv", table)
    return Written(forms, found, figure, stages)


# --- Tables ------------------------------------------------------------------------


def compare(scores: Mapping[str, Scores], dataset: str, split: str, online: str) -> pd.DataFrame:
    """ABLATION: each published row, and after the paper's own the run of the same make.

    scores: of runs by name. online: the kind of online training that the runs named
    `<variant>-online` had.
    """
    return _beside(PUBLISHED, lambda row: [_measured(row, scores, dataset, split, online)])


def table5(offline: Sequence[Path], online: Sequence[Path]) -> pd.DataFrame:
    """Table 5 in percent, from the output folders of runs of `dyenet` on several datasets.

    offline, online: runs before and after online training, one a dataset; an Ablation's are
    OUT/dyenet and OUT/dyenet-online. UserError if a folder holds no such run, is among both, or
    two are of the same dataset.
    """
    if both := {path.resolve() for path in offline} & {path.resolve() for path in online}:
        raise UserError(f"{both.pop()}: given as before and as after online training; give it once")
    runs = {False: _by_place(offline), True: _by_place(online)}

    def ours(row: Published) -> Iterable[tuple[Any, ...]]:
        tuned = bool(row.online)
        for (dataset, split), run in runs[tuned].items():
            kind = PER_DATASET if Path(reports.read_run(run)["weights"]).suffix else PER_VIDEO
            scores = {FULL + (TUNED if tuned else ""): _scores(run)}
            yield _measured(row, scores, dataset, split, kind)

    rows = _beside((row for row in PUBLISHED if row.table == 5), ours)
    return in_paper_form(rows, 5)


def _by_place(folders: Iterable[Path]) -> dict[tuple[str, str], Path]:
    """Runs of the whole method by dataset and split."""
    found: dict[tuple[str, str], Path] = {}
    for folder in folders:
        run = reports.read_run(folder)
        place = run["dataset"], run["split"]
        if run["variant"] != FULL:
            raise UserError(f"{folder}: a run of {run['variant']}; Table 5 is of {FULL}")
        if place in found:
            raise UserError(f"{folder} and {found[place]}: both of {' '.join(place)}; give one")
        found[place] = folder
    return found


def _beside(
    published: Iterable[Published], ours: Callable[[Published], Iterable[tuple[Any, ...]]]
) -> pd.DataFrame:
    """ABLATION: published rows; after the first of each method of the paper's, ours of its make."""
    rows, done = [], set()
    for row in published:
        rows.append(_published(row))
        slot = row.table, row.method
        if row.variant and slot not in done:
            done.add(slot)
            rows += ours(row)
    return pd.DataFrame(rows, columns=list(ABLATION)).astype(ABLATION)


def _scores(run: Path) -> Scores:
    """J, F and G of a run; NaN without annotations."""
    table = reports.per_iteration(run)
    if not len(table):
        return math.nan, math.nan, math.nan
    last = table.iloc[-1]
    return float(last["J"]), float(last["F"]), float(last["G"])


NOT_MEASURED = (math.nan, math.nan, math.nan)


def _published(row: Published) -> tuple[Any, ...]:
    kinds = PER_DATASET in row.online, PER_VIDEO in row.online, row.ensemble
    figures = (_fraction(v) for v in (row.J, row.F, row.G, row.delta_G))
    about = row.table, row.method, row.variant, row.source, row.dataset, row.split
    return (*about, *kinds, *figures)


def _fraction(percent: float | None) -> float:
    return math.nan if percent is None else round(percent / 100, 6)


def _measured(
    row: Published,
    scores: Mapping[str, Scores],
    dataset: str,
    split: str,
    online: str,
) -> tuple[Any, ...]:
    """Our row of the same make as one of the paper's."""

    def run(variant: str, tuned: bool) -> Scores:
        return scores.get(variant + (TUNED if tuned else ""), NOT_MEASURED)

    tuned = bool(row.online)
    j, f, g = run(row.variant, tuned)
    delta = math.nan
    if row.table == 3 and (row.variant, tuned) in GAIN_OVER:
        delta = g - run(*GAIN_OVER[row.variant, tuned])[2]
    if row.table == 5:
        f = g = math.nan
    kinds = tuned and online == PER_DATASET, tuned and online == PER_VIDEO, False
    return row.table, row.method, row.variant, "run", dataset, split, *kinds, j, f, g, delta


def in_paper_form(table: pd.DataFrame, number: int) -> pd.DataFrame:
    """One of Tables 1, 3, 4 and 5 as the paper prints it, in percent; table: ABLATION."""
    rows = table[table["table"] == number]
    form = pd.DataFrame({"Method": rows["method"] + rows["ensemble"].map({True: "†", False: ""})})
    form["Source"] = rows["source"]
    if number in (4, 5):
        for name in ("per_dataset", "per_video"):
            form[name.replace("_", "-")] = rows[name].map({True: "yes", False: ""})
    if number == 5:
        return _by_dataset(form, rows)
    for name in ("J", "F", "G"):
        form[f"{name}-mean"] = _percent(rows[name])
    if number == 3:
        form["delta G-mean"] = _percent(rows["delta_G"])
    return form.reset_index(drop=True)


def _by_dataset(form: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Table 5: a column of mIoU for each dataset."""
    places = list(zip(rows["dataset"], rows["split"], strict=True))
    names = [NAMES.get(place, " ".join(place)) for place in places]
    lines = form.drop_duplicates(ignore_index=True)
    cells = dict(
        zip(
            zip(form.itertuples(index=False, name=None), names, strict=True),
            _percent(rows["J"]),
            strict=True,
        )
    )
    found = list(lines.itertuples(index=False, name=None))
    for name in dict.fromkeys([*NAMES.values(), *names]):
        lines[name] = [cells.get((line, name), math.nan) for line in found]
    return lines


def _percent(values: pd.Series) -> pd.Series:
    return (100 * values).round(1) + 0.0


def retrieved(run: Path | None, rho_reid: float) -> pd.DataFrame:
    """Table 2 in percent: the paper's rows, then those of a run with its one rho_reid."""
    rows: list[tuple[Any, ...]] = [
        ("paper", rho, ("1", "2", "3+")[n], *figures)
        for rho, iterations in RETRIEVAL.items()
        for n, figures in enumerate(iterations)
    ]
    if run is not None:
        for row in reports.per_iteration(run).to_dict("records"):
            figures = (round(100 * row[name], 1) for name in ("precision", "recall", "G"))
            rows.append(("run", rho_reid, str(row["iteration"]), *figures))
    columns = ["Source", "rho_reid", "Iteration", "Precision", "Recall", "G-mean"]
    return pd.DataFrame(rows, columns=columns)


# --- Fig. 6 ------------------------------------------------------------------------


def staged(runs: Mapping[str, Path]) -> dict[str, Path]:
    """Runs by variant: those after online training if the whole method is among them."""
    tuned = FULL + TUNED in runs
    found = {variant: runs.get(variant + (TUNED if tuned else "")) for variant in BUILT_UP}
    return {variant: run for variant, run in found.items() if run is not None}


def by_category(table: pd.DataFrame, scores: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """CATEGORIES from INSTANCES; scores: reports.results() by variant."""
    yes_no = {True: "yes", False: "no"}
    levels = pd.DataFrame(
        {
            "all": "all",
            "size": table["size"],
            "scale variation": table["scale_variation"].map(yes_no),
            "occlusion": table["occlusion"],
            "pose variation": table["pose"].map(yes_no),
        }
    )
    rows = []
    for attribute, values in LEVELS.items():
        for level in values:
            chosen = table.loc[levels[attribute] == level, ["video", "object"]]
            for variant, result in scores.items():
                g = chosen.merge(result, on=["video", "object"])["G"].mean()
                rows.append((attribute, level, variant, len(chosen), g))
    return pd.DataFrame(rows, columns=list(CATEGORIES)).astype(CATEGORIES)
