"""Files of the output folder: each appears whole, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cache.files import write_file
from pipeline.datasets.layout import in_order
from pipeline.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table whole or not at all, with every digit."""
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; UserError if the place cannot be written to."""
    try:
        write_file(path, text.encode())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def masks_in(folder: Path) -> tuple[Path, ...]:
    """The masks that were written for a video, in the order of its frames."""
    return in_order(folder.glob("*.png"))
