"""Settings of training, and the recipes.

The schedule of section 3.3 is the default, with clips that are more varied than the paper
says; paper() is what it prints.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from stages.settings import Checked, setting

LEARN = {
    "all": ("mask", "reid", "remp", "remp_plain"),
    "attention": ("mask", "reid", "remp"),
    "no-attention": ("mask", "reid", "remp_plain"),
    "reid": ("reid",),
    "remp": ("remp", "remp_plain"),
    "masks": ("mask", "remp", "remp_plain"),
}
"""modules of the joint training by the setting `learn`"""


@dataclass(frozen=True)
class TrainSettings(Checked):
    """One training run: schedule, clips and losses."""

    iterations: int = setting(24_000, "steps of the optimiser", low=1)
    clips: int = setting(8, "videos an iteration", low=1)
    batch: int = setting(1, "clips that go through the networks together", low=1)
    frames: int = setting(4, "frames of a clip", low=2)
    optimiser: str = setting("sgd", "how weights move", choices=("sgd", "adamw"))
    rate: float = setting(1e-3, "initial learning rate", low=0.0)
    drop: int = setting(8_000, "iterations after which the rate falls tenfold", low=1)
    warmup: int = setting(0, "iterations over which the rate rises to its initial value", low=0)
    momentum: float = setting(0.9, "of SGD", low=0.0, high=1.0)
    decay: float = setting(5e-4, "weight decay", low=0.0)
    clip_norm: float = setting(0.0, "longest gradient, 0: no limit", low=0.0)
    average: float = setting(
        0.0, "decay of the running mean of the weights that is saved; 0: the last weights", low=0.0
    )
    mask_weight: float = setting(1.0, "lambda, the weight of L_mask and L_remp", low=0.0)
    learn: str = setting(
        "all",
        "networks that learn: all together, all with one kind of Re-MP, or some alone",
        choices=tuple(LEARN),
    )
    trunk: str = setting("train", "whether the trunk learns", choices=("train", "frozen"))
    precision: str = setting("fp32", "of the forward pass", choices=("fp32", "bf16"))
    gap: int = setting(4, "frames between two frames of a clip, at most", low=1)
    height: int = setting(480, "shorter side of the frames in px, at most", low=32)
    scale: float = setting(0.6, "smallest random scale of a clip", low=0.05, high=1.0)
    stills: float = setting(0.3, "share of clips drawn from still images", low=0.0, high=1.0)
    composites: float = setting(
        0.3, "share of clips with objects of another source pasted in", low=0.0, high=1.0
    )
    drift: float = setting(
        0.05, "speed of a pasted object at most, share of the shorter side a frame", low=0.0
    )
    motion: float = setting(
        0.1,
        "size of the random motion of stills and first frames, share of a side; 0: they stay as "
        "they are",
        low=0.0,
    )
    objects: int = setting(3, "objects of a clip that Re-MP follows, at most", low=1)
    boxes: int = setting(4, "jittered boxes of each object in each frame", low=1)
    negatives: int = setting(8, "background boxes a frame that join OIM's queue", low=0)
    degrade: float = setting(0.3, "share of starting masks that are degraded", low=0.0, high=1.0)
    queue: int = setting(5_000, "length of OIM's circular queue", low=1)
    checkpoint: int = setting(100, "iterations between two checkpoints", low=1)
    seed: int = setting(0, "of every random choice", low=0)


def online(iterations: int = 2_000) -> TrainSettings:
    """Fine-tuning on first frames (section 4): no pasting, the trunk as it is."""
    return TrainSettings(
        iterations=iterations, drop=iterations, stills=1.0, composites=0.0, trunk="frozen"
    )


def paper() -> TrainSettings:
    """Section 3.3 as printed: videos as they are, and one L_remp, that of Re-MP with attention."""
    return TrainSettings(learn="attention", scale=1.0, stills=0.0, composites=0.0, degrade=0.0)


def paper_online(iterations: int = 2_000) -> TrainSettings:
    """Fine-tuning as section 4 has it: the whole model, on first frames as they are.

    2k iterations (section 4.2); nothing is synthesised from the first frames (section 2).
    """
    return replace(paper(), iterations=iterations, drop=iterations, stills=1.0, motion=0.0)


def compact() -> TrainSettings:
    """The recipe of the shipped model, whose heads start from nothing."""
    return TrainSettings(
        iterations=6_000,
        optimiser="adamw",
        rate=1e-3,
        drop=4_000,
        warmup=100,
        decay=1e-2,
        clip_norm=1.0,
        average=0.998,
        trunk="frozen",
    )
