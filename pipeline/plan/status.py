"""What of a run is in the cache, and why the rest is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cache.files import DamagedArtifact, MissingArtifact
from cache.store import Store
from pipeline.plan.chain import Spec, artifacts_of
from pipeline.plan.recipe import Recipe
from pipeline.plan.settled import possible


@dataclass(frozen=True)
class State:
    """One artifact of a run."""

    video: str
    label: str
    cached: bool
    why: str
    """what differs from the nearest artifact that is there; empty if cached"""


def status(recipe: Recipe, store: Store) -> Iterator[State]:
    """State of every artifact of a run, by video."""
    for video in recipe.videos:
        either, *other = possible(store, recipe.dataset, video, artifacts_of(recipe, video))
        for name, spec in either.items():
            cached = store.exists(spec.stage, recipe.dataset, video, spec.key)
            why = "" if cached else _why(store, recipe.dataset, video, spec)
            if why and any(name not in plan for plan in other):
                why = f"{why}; only if the given masks do not settle every object"
            yield State(video, name, cached, why)


def _why(store: Store, dataset: str, video: str, spec: Spec) -> str:
    """The fewest differences to any artifact of the same stage and iteration."""
    found = [
        differences(other, spec.content)
        for other in _contents(store, dataset, video, spec.stage)
        if other["iteration"] == spec.iteration
    ]
    if not found:
        return "not computed yet"
    fewest = min(found, key=_extent)
    return "; ".join(fewest)


def _extent(parts: list[str]) -> tuple[int, int]:
    """Fewest differences first, then the shortest to say."""
    return len(parts), sum(len(part) for part in parts)


def _contents(store: Store, dataset: str, video: str, stage: str) -> Iterator[Mapping[str, Any]]:
    for path in sorted(store.folder(stage, dataset, video).glob("*.h5")):
        try:
            with store.read(stage, dataset, video, path.stem) as reader:
                yield reader.content
        except (MissingArtifact, DamagedArtifact):
            continue


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two contents of a stage, each in a few words, own parts first."""
    found = [
        f"{part} {old[part]} -> {new[part]}"
        for part in ("version", "schema")
        if old[part] != new[part]
    ]
    for part, text in (
        ("settings", "{name} {before} -> {after}"),
        ("numerics", "{name} {before} -> {after}"),
        ("sources", "other {name}"),
        ("weights", "other weights of {name}"),
    ):
        before, after = old[part], new[part]
        found += [
            text.format(name=n.replace("_", " ") if part == "sources" else n, before=a, after=b)
            for n in sorted({*before, *after})
            if (a := before.get(n)) != (b := after.get(n))
        ]
    before, after = old["inputs"], new["inputs"]
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return found + ([f"follows {', '.join(changed)}"] if changed else [])
