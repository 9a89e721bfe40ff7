"""Every checksum of a cache: what a run would find damaged one day is found now."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cache import keys
from cache.files import (
    BAD,
    CacheError,
    DamagedArtifact,
    MissingArtifact,
    checksum,
    set_aside,
    trouble,
)
from cache.prune import stage_files
from cache.reader import Reader
from cache.schemas import SCHEMAS
from cache.store import Store


@dataclass
class Verified:
    """What was read of a kind of file."""

    kind: str
    """a stage, or recipes, runs or digests"""
    files: int = 0
    bytes: int = 0
    """on disk"""
    seconds: float = 0.0
    damaged: list[str] = field(default_factory=list)
    """a line for each file that is not as it was written, and says where it is now"""


def verify(store: Store) -> Iterator[Verified]:
    """Read every artifact by stage - its structure, its key, the checksum of every chunk - and
    then the recipes and records of runs and the digests of sources.

    Damaged ones are set aside as .bad, and the next run that needs them makes them anew. What
    other processes remove meanwhile is left out.
    """
    for stage in SCHEMAS:
        files = [path for path in stage_files(store, stage) if path.suffix == ".h5"]
        yield _verified(stage, files, partial(_read_artifact, stage))
    for kind, pattern, intact in (
        ("recipes", "*.json", _named_after_content),
        ("runs", "*/*.json", _named_after_content),
        ("digests", "**/*.json", _has_its_checksum),
    ):
        files = sorted((store.root / kind).glob(pattern))
        yield _verified(kind, files, partial(_read_record, intact))


def _verified(kind: str, paths: Sequence[Path], read: Callable[[Path], None]) -> Verified:
    found, began = Verified(kind), time.perf_counter()
    for path in paths:
        try:
            size = path.stat().st_size
            read(path)
        except (MissingArtifact, FileNotFoundError):
            continue
        except OSError as error:
            found.damaged.append(str(trouble(path, error)))
        except CacheError as error:
            found.damaged.append(str(error))
        found.files += 1
        found.bytes += size
    found.seconds = time.perf_counter() - began
    return found


def _read_artifact(stage: str, path: Path) -> None:
    """Read all of an artifact; CacheError if that fails."""
    reader = Reader(SCHEMAS[stage], path, path.stem.rpartition("-")[2])
    try:
        reader.verify()
    finally:
        reader.close()


def _read_record(intact: Callable[[Path, dict[str, Any]], bool], path: Path) -> None:
    """Read a JSON file; DamagedArtifact if it is not intact."""
    text = path.read_bytes()
    with suppress(ValueError, TypeError, AttributeError, KeyError, RecursionError):
        if intact(path, json.loads(text)):
            return
    set_aside(path)
    raise DamagedArtifact(f"{path} is damaged: set aside as {path.name}{BAD}; a run makes it anew")


def _named_after_content(path: Path, content: dict[str, Any]) -> bool:
    # The time of a record is that of the last run that reached the same.
    content.pop("time", None)
    return keys.short(keys.key(content)) == path.stem


def _has_its_checksum(path: Path, content: dict[str, Any]) -> bool:
    # Those of an older version have none, and are not read any more.
    return "checksum" not in content or content["checksum"] == checksum(content["values"])
