"""Files of the output folder: each appears whole, or not at all."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
    with cannot_write(path):
        write_file(path, text.encode())


@contextmanager
def cannot_write(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a UserError that names `path` and what mends it."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); free some space or give "
            "another folder as --output"
        ) from error


def read_table(source: Path | io.StringIO, columns: Mapping[str, str]) -> pd.DataFrame:
    """A CSV of ours with its columns' types; UserError if it is damaged."""
    import pandas as pd

    # As text first: a video may be called 007 or NA, and floats are to keep every digit.
    text = {c: "str" if kind == "float64" else kind for c, kind in columns.items()}
    empty = {c: [""] for c, kind in columns.items() if kind != "str"}
    try:
        table = pd.read_csv(source, dtype=text, keep_default_na=False, na_values=empty)
        return table[list(columns)].astype(dict(columns))
    except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{source}: damaged or no table of this program ({reason}); run the same command "
            "again to have it written anew"
        ) from error


def masks_in(folder: Path) -> tuple[Path, ...]:
    """The masks that were written for a video, in the order of its frames."""
    return in_order(folder.glob("*.png"))
