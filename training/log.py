"""log.csv of a training run: a row an iteration."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from cache.files import write_file


def read_log(path: Path) -> list[dict[str, Any]]:
    """Rows of log.csv; none if there is no file yet."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {name: int(v) if name == "iteration" else float(v) for name, v in row.items() if v}
            for row in csv.DictReader(file)
        ]


def write_log(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write log.csv, whole or not at all; floats keep every digit."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    table = csv.DictWriter(text, names, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_file(path, text.getvalue().encode())
