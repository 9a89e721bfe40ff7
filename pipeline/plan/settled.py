"""Whether a video's given masks settle every object, so that nothing is to be retrieved."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress

from cache.files import DamagedArtifact, MissingArtifact
from cache.reader import Reader
from cache.store import Store
from pipeline.plan.chain import FIRST, Spec, artifacts_of, label, needed, report_labels
from pipeline.plan.recipe import Recipe
from stages.settled import throughout


def settled(store: Store, dataset: str, video: str, plan: Mapping[str, Spec]) -> bool | None:
    """Whether the tracklets of the given masks hold every object in every frame.

    plan: all that the video may need. None where no artifact tells yet; False where retrieval
    does not depend on it. tracklets(1) begins with the tracklets of tracklets(given) and tells as
    well, so that a cache of before there was a choice needs no stage to run.
    """
    if FIRST not in plan:
        return False

    def read(name: str) -> AbstractContextManager[Reader]:
        return store.read(plan[name].stage, dataset, video, plan[name].key)

    for name in (FIRST, label("tracklets", 1)):
        with (
            suppress(MissingArtifact, DamagedArtifact),
            read("frames") as frames,
            read(name) as tracklets,
        ):
            return _all_settled(tracklets, len(frames["names"]))
    return None


def possible(
    store: Store, dataset: str, video: str, plan: Mapping[str, Spec]
) -> list[dict[str, Spec]]:
    """What the video needs of its plan: one answer, or both where settled() is not known yet."""
    found = settled(store, dataset, video, plan)
    return cases(plan) if found is None else [needed(plan, found)]


def cases(plan: Mapping[str, Spec]) -> list[dict[str, Spec]]:
    """What the video may need, whether or not its given masks settle it."""
    return [needed(plan, case) for case in ((False, True) if FIRST in plan else (False,))]


def served(recipe: Recipe, store: Store) -> bool:
    """Whether the cache holds all that a report reads: nothing is to be computed or written."""
    plans = [
        (video, possible(store, recipe.dataset, video, artifacts_of(recipe, video)))
        for video in recipe.videos
    ]
    return all(len(found) == 1 for _, found in plans) and all(
        store.exists(plan[name].stage, recipe.dataset, video, plan[name].key)
        for video, [plan] in plans
        for name in report_labels(plan)
    )


def _all_settled(tracklets: Reader, frames: int) -> bool:
    names = ("given", "object", "first", "offsets")
    given, objects, first, offsets = (tracklets[name][:].tolist() for name in names)
    spans = [
        (objects[n], range(first[n], first[n] + offsets[n + 1] - offsets[n]))
        for n in range(len(given))
        if given[n]
    ]
    return throughout(spans, frames) == {i for i, _ in spans}
