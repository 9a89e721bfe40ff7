"""Every checksum of a cache: what a run would find damaged one day is found now."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cache import keys
from cache.files import BAD, CacheError, DamagedArtifact, MissingArtifact, trouble
from cache.prune import stage_files
from cache.reader import Reader
from cache.schemas import SCHEMAS
from cache.store import Store


@dataclass
class Verified:
    """What was read of a kind of file."""

    kind: str
    """a stage, recipes or runs"""
    files: int = 0
    bytes: int = 0
    """on disk"""
    seconds: float = 0.0
    damaged: list[str] = field(default_factory=list)
    """a line for each file that is not as it was written, and says where it is now"""


def verify(store: Store) -> Iterator[Verified]:
    """Read every artifact by stage - its structure, its key, the checksum of every chunk - and
    the recipes and records of runs, which are named after what they hold.

    Damaged ones are set aside as .bad, and the next run that needs them makes them anew. What
    other processes remove meanwhile is left out.
    """
    for stage in SCHEMAS:
        files = [path for path in stage_files(store, stage) if path.suffix == ".h5"]
        yield _verify(stage, files)
    yield _verify("recipes", sorted((store.root / "recipes").glob("*.json")))
    yield _verify("runs", sorted((store.root / "runs").glob("*/*.json")))


def _verify(kind: str, paths: Sequence[Path]) -> Verified:
    found, began = Verified(kind), time.perf_counter()
    for path in paths:
        try:
            size = path.stat().st_size
            if kind in SCHEMAS:
                _read_artifact(kind, path)
            else:
                _read_record(path)
        except (MissingArtifact, FileNotFoundError):
            continue
        except (CacheError, OSError) as error:
            found.damaged.append(str(trouble(path, error) if isinstance(error, OSError) else error))
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


def _read_record(path: Path) -> None:
    """Read a recipe or the record of a run; DamagedArtifact if its name is another content's."""
    try:
        content = json.loads(path.read_bytes())
        # The time is of the last run that reached the same.
        content.pop("time", None)
        if keys.short(keys.key(content)) == path.stem:
            return
    except (ValueError, TypeError, AttributeError, RecursionError):
        pass
    path.replace(f"{path}{BAD}")
    raise DamagedArtifact(f"{path} is damaged: renamed to {path.name}{BAD}; a run writes it anew")
