"""log.csv of a training run: a row an iteration."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any


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
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, names, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    temporary.replace(path)
