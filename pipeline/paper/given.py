"""Tables that a person gives as a CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pipeline.errors import UserError


def read_given(option: str, path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Columns of a CSV as text; others are left out. UserError if it lacks one of them."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{option} {path}: cannot be read as a CSV ({error})") from error
    missing = [name for name in columns if name not in table]
    if missing:
        raise UserError(
            f"{option} {path}: lacks the column {missing[0]}; it needs {', '.join(columns)}"
        )
    return table[list(columns)]
