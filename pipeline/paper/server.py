"""Scores that the benchmark's server returned, for splits whose annotations it keeps."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from pipeline.errors import UserError
from pipeline.paper.given import read_given

OPTION = "--server-scores"
MEASURES = ("J-Mean", "F-Mean", "J&F-Mean")
"""names of J, F and G in the official tool's global_results-<split>.csv"""

Scores = tuple[float, float, float]
"""J, F and G of a run as fractions"""


def server_scores(path: Path, runs: Collection[str]) -> dict[str, Scores]:
    """Scores by run, from a CSV with the columns run, J-Mean, F-Mean and J&F-Mean.

    runs: their names. UserError names the line with an unknown run, a run that is there twice,
    or a value that is not a fraction.
    """
    found: dict[str, Scores] = {}
    table = read_given(OPTION, path, ("run", *MEASURES))
    for line, row in enumerate(table.to_dict("records"), 2):
        name, place = str(row["run"]), f"{OPTION} {path}, line {line}"
        if name not in runs or name in found:
            wrong = "is there twice" if name in found else f"is none of {', '.join(runs)}"
            raise UserError(f"{place}: run {name!r} {wrong}")
        j, f, g = (_fraction(place, measure, str(row[measure])) for measure in MEASURES)
        found[name] = j, f, g
    return found


def _fraction(place: str, measure: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UserError(f"{place}: {measure} is {text!r}, must be a fraction from 0 to 1")
    return value
