"""What the pages share: the template engine, its filters, and plots as SVG paths."""

from __future__ import annotations

import base64
import math
from collections.abc import Hashable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from pipeline.reports import PER_ITERATION
from pipeline.results.files import write_text
from pipeline.results.overlays import colour

Row = Mapping[Hashable, Any]
"""a row of a table by column"""


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Write a page; its path. UserError if the place cannot be written to."""
    write_text(path, _environment().get_template(template).render(**values))
    return path


def similarity(settings: Mapping[str, Mapping[str, Any]]) -> str:
    """What rho_reid is a threshold of, by RunSettings.to_dict(): the cosine, or more than it."""
    evidence = settings["matches"].get("evidence", 0.0)
    return f"cosine + {evidence:g} x evidence" if evidence else "cosine"


def until_settled(table: pd.DataFrame) -> list[int]:
    """Iterations of a table of per_iteration() or sweep(), up to the last that changed anything."""
    measured = [name for name in PER_ITERATION if name != "iteration"]
    found = sorted(table["iteration"].unique().tolist())
    rows = {k: table.loc[table["iteration"] == k, measured].reset_index(drop=True) for k in found}
    while len(found) > 1 and rows[found[-1]].equals(rows[found[-2]]):
        found.pop()
    return found


def picture(jpeg: bytes) -> str:
    """A JPEG as an address that holds it."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def line(points: Iterable[tuple[float, float]]) -> str:
    """Points as an SVG path; those without a value (NaN) leave a gap."""
    path, joined = "", False
    for x, y in points:
        if not math.isnan(y):
            path += f"{'L' if joined else 'M'}{x:g} {y:.1f}"
        joined = not math.isnan(y)
    return path


def dots(points: Iterable[tuple[float, float]]) -> str:
    """Points as lines of no length: drawn with caps, they stay round however stretched."""
    return "".join(f"M{x:g} {y:.1f}h0" for x, y in points if not math.isnan(y))


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["percent"] = percent
    environment.filters["change"] = change
    environment.filters["duration"] = duration
    environment.filters["colour"] = colour
    return environment


def percent(fraction: float | None) -> str:
    """61.3 of 0.613; nothing where it was not measured."""
    if fraction is None or math.isnan(fraction):
        return ""
    return f"{round(100 * fraction, 1) + 0.0:.1f}"


def change(fraction: float | None) -> str:
    """+1.3 of 0.013; nothing where it was not measured."""
    if fraction is None or math.isnan(fraction):
        return ""
    return f"{round(100 * fraction, 1) + 0.0:+.1f}"


def duration(seconds: float) -> str:
    """2.4 s, 3 min 20 s, 1 h 12 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
