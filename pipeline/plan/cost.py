"""What runs will add to the cache, estimated from the sizes of their frames before they start."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cache.store import Store
from models.backbone import BACKBONES
from models.config import Architecture
from models.weights import read_architecture
from pipeline.plan.chain import PASSING, SECONDS, Spec, planned
from pipeline.plan.inputs import open_video
from pipeline.plan.recipe import Recipe
from pipeline.plan.settled import possible
from stages.frames import BadInput, extent, working_size

COMPRESSED = {"features": 0.83, "flow": 0.4, "embeddings": 0.79}
"""share of the bytes of the arrays that their files have: measured on the demo"""
OTHERS = 2_000
"""bytes a frame of an artifact of any other stage"""


@dataclass(frozen=True)
class Cost:
    """What a video, or several, will add to the cache."""

    frames: int
    """of videos that lack anything"""
    staying: int
    """bytes that stay with --keep results"""
    passing: int
    """bytes that go with it, once a video's masks are final"""
    work: float
    """SECONDS that its stages take"""


def cost(recipes: Sequence[Recipe], store: Store) -> dict[str, Cost]:
    """What planned runs will add to the cache by video; what they share counts once.

    A video that cannot be read is left out: its own task says what is wrong with it.
    """
    found = {}
    for video in dict.fromkeys(name for recipe in recipes for name in recipe.videos):
        having = [recipe for recipe in recipes if video in recipe.videos]
        missing = {
            spec.key: spec
            for recipe in having
            for spec in _needed(recipe, video, store)
            if not store.exists(spec.stage, recipe.dataset, video, spec.key)
        }
        if missing:
            with suppress(BadInput):
                found[video] = _cost(store.root, having[-1], video, missing.values())
    return found


def _needed(recipe: Recipe, video: str, store: Store) -> Iterable[Spec]:
    """What a video needs; all that it may need where that is not known yet."""
    plan, *_ = possible(store, recipe.dataset, video, planned(store.root, recipe.digest, video))
    return plan.values()


def _cost(root: Path, recipe: Recipe, video: str, missing: Collection[Spec]) -> Cost:
    frames, size = extent(open_video(root, recipe.digest, video).frames, video)
    height, width = working_size(size, recipe.settings.frames)
    architecture = _architecture(Path(recipe.videos[video].weights))
    values = BACKBONES[architecture.backbone].channels / 8**2
    if architecture.refine > 1:
        values += architecture.fine_channels / 4**2
    each = {
        "features": 2 * values * height * width,
        "flow": 2 * 2 * 2 * height * width,
        "embeddings": 4 * architecture.embedding * recipe.settings.proposals.per_frame,
    }
    spent = {True: 0.0, False: 0.0}
    for spec in missing:
        share = COMPRESSED.get(spec.stage, 1.0)
        spent[spec.stage in PASSING] += frames * share * each.get(spec.stage, OTHERS)
    work = frames * sum(SECONDS.get(spec.stage, 0.0) for spec in missing)
    return Cost(frames, int(spent[False]), int(spent[True]), work)


@lru_cache(maxsize=8)
def _architecture(weights: Path) -> Architecture:
    return read_architecture(weights)
