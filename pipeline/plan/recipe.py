"""Recipes: what a run was asked for, with the digests of all that it is made from.

A recipe is written to `<cache root>/recipes/<digest>.json` before anything is scheduled,
so that a worker on another machine can rebuild any task from a short digest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import cache.keys
from cache.files import set_aside, write_file
from pipeline.datasets.reading import AS_IT_IS, Reading
from pipeline.errors import UserError
from pipeline.plan.settings import RunSettings
from stages.frames import DEEP


@dataclass(frozen=True)
class VideoRecipe:
    """What one video is made from."""

    images: str
    """digest of the names and bytes of the frames"""
    first_masks: str
    annotations: str | None
    weights: str
    """path; enters no key"""
    modules: Mapping[str, str]
    """digest of each module in the weights file"""
    bits: int = DEEP
    """of 16 a channel, that images of this depth hold"""


@dataclass(frozen=True)
class Recipe:
    """Everything a run was asked for."""

    dataset: str
    root: str | None
    split: str
    masks: str | None
    """file or folder of the first masks where the layout does not fix it"""
    device: str
    settings: RunSettings
    videos: Mapping[str, VideoRecipe]
    reading: Reading = AS_IT_IS

    @cached_property
    def digest(self) -> str:
        """Short digest by which tasks name their recipe."""
        return cache.keys.short(cache.keys.key(self.to_dict()))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; what came later only where it is not at its default."""
        values = asdict(self)
        if self.reading == AS_IT_IS:
            del values["reading"]
        for video in values["videos"].values():
            if video["bits"] == DEEP:
                del video["bits"]
        return values

    def write(self, cache_root: Path) -> None:
        """Put the recipe where every worker finds it; whole or not at all."""
        path = _path(cache_root, self.digest)
        if path.exists() and _stored(path) is not None:
            return
        try:
            write_file(path, json.dumps(self.to_dict(), indent=1, sort_keys=True).encode())
        except OSError as error:
            raise UserError(
                f"cache root {cache_root}: cannot write to it ({error.strerror}); give another "
                "folder in DYENET_CACHE or as [cache] root in luigi.cfg"
            ) from error


@lru_cache(maxsize=32)
def read(cache_root: Path, run_digest: str) -> Recipe:
    """A recipe by its short digest; UserError if the cache root holds none."""
    stored = _stored(_path(cache_root, run_digest))
    if stored is None:
        raise UserError(
            f"cache root {cache_root}: holds no recipe {run_digest}; start the run anew"
        )
    settings = RunSettings.from_dict(stored["settings"])
    videos = {name: VideoRecipe(**video) for name, video in stored["videos"].items()}
    reading = Reading(**stored.get("reading", {}))
    return Recipe(**{**stored, "settings": settings, "videos": videos, "reading": reading})


def _stored(path: Path) -> dict[str, Any] | None:
    """What a recipe's file holds, None without one; a damaged file is set aside.

    A recipe is named after its content, which tells damage.
    """
    try:
        stored: dict[str, Any] = json.loads(path.read_bytes())
        if cache.keys.short(cache.keys.key(stored)) == path.stem:
            return stored
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError):
        pass
    set_aside(path)
    return None


def _path(cache_root: Path, run_digest: str) -> Path:
    return cache_root / "recipes" / f"{run_digest}.json"
