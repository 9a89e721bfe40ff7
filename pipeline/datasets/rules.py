"""Which frames and objects of a dataset are scored, and what the mean over it is taken over."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.errors import UserError
from stages.boxmask import all_ids
from stages.types import IndexMask


@dataclass(frozen=True)
class Rule:
    """Which frames count, and what the mean over a set is taken over."""

    frames: str
    """inner: all but a video's first and last (DAVIS); later: all without a given mask; all"""
    average: str = "objects"
    """objects; or categories: objects of one kind first (`cat_0001`, `cat_0002`: cat)"""

    def __post_init__(self) -> None:
        if self.frames not in ("inner", "later", "all"):
            raise UserError(f"scored frames {self.frames!r}: must be inner, later or all")
        if self.average not in ("objects", "categories"):
            raise UserError(f"average over {self.average!r}: must be objects or categories")

    def counts(self, frame: int, total: int, given: Iterable[int]) -> bool:
        """Whether a frame counts in a video of `total` frames with masks given in some."""
        if self.frames == "inner":
            return 0 < frame < total - 1
        return self.frames == "all" or frame not in given

    def __str__(self) -> str:
        frames = {
            "inner": "all annotated frames but each video's first and last",
            "later": "all annotated frames without a given mask",
            "all": "all annotated frames",
        }
        return f"{frames[self.frames]}; mean over {self.average}"


DAVIS = Rule("inner")
"""of DAVIS, and of what has its layout"""
LATER = Rule("later")
"""of the other benchmarks"""


def objects_of(masks: Iterable[IndexMask], rule: Rule) -> tuple[int, ...]:
    """The objects to score, by the masks given for a video.

    DAVIS (rule.frames inner) counts to the highest ID, whether or not each one is there.
    """
    ids = all_ids(masks)
    return tuple(range(1, max(ids, default=0) + 1) if rule.frames == "inner" else ids)
