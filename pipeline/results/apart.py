"""Results never go where a run reads from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.errors import UserError
from pipeline.results.export import places
from pipeline.results.made import MADE


def check_apart(out: Path, videos: Iterable[str], sources: Mapping[Path, str]) -> None:
    """UserError if what a run writes below `out` would be, hold or lie in one of its sources.

    sources: files and folders, each with what it is. Links are followed.
    """
    real = {_real(path): f"{what} {path}" for path, what in sources.items()}
    above = {parent: what for path, what in real.items() for parent in path.parents}
    written = [out / name for name in (MADE, "scores", "videos", "run.json", "report.html")]
    for path in (*written, *(place for video in videos for place in places(out, video))):
        at = _real(path)
        within = (real[folder] for folder in (at, *at.parents) if folder in real)
        if source := next(within, above.get(at)):
            raise UserError(
                f"{path}: results would be written over or into {source}; give another folder as "
                "--output"
            )


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
