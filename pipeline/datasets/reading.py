"""How a person wants the files of their own videos to be read."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import UserError

FORMS = "alpha", "colours", "threshold"
"""what of a picture shows the objects, where its pixels are not their numbers"""
TURNS = "shown", "stored"
"""whether masks lie as a viewer shows the frames, or as their pixels are stored"""


@dataclass(frozen=True)
class Reading:
    """Which frames are taken, and what of a mask is; each as it is, where nothing is said."""

    mask_from: str | None = None
    """one of FORMS"""
    mask_turn: str | None = None
    """one of TURNS; of frames that a tag tells viewers to turn"""
    start: int | None = None
    """the first frame, counted from 0"""
    end: int | None = None
    """the last frame"""
    every: int | None = None
    """of so many frames only the first"""
    fps: float | None = None
    """of a video file, so many frames a second"""

    def __post_init__(self) -> None:
        """UserError for a value that makes no sense."""
        for name, known in (("mask_from", FORMS), ("mask_turn", TURNS)):
            if getattr(self, name) not in (None, *known):
                raise UserError(f"{option(name)} {getattr(self, name)}: must be {join(known)}")
        for name, least in (("start", 0), ("end", 0), ("every", 1)):
            if (value := getattr(self, name)) is not None and value < least:
                raise UserError(f"{option(name)} {value}: must be at least {least}")
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise UserError(f"--fps {self.fps}: must be more than 0")
        if self.every and self.fps:
            raise UserError("--every and --fps: both thin out the frames; give one of them")
        if self.start and self.end is not None and self.end < self.start:
            raise UserError(f"--start {self.start} --end {self.end}: end before they start")

    @property
    def selects(self) -> bool:
        """Whether some frames may be left out."""
        return (self.start, self.end, self.every, self.fps) != (None,) * 4


AS_IT_IS = Reading()


def option(name: str) -> str:
    """A field as the command line writes it."""
    return f"--{name.replace('_', '-')}"


def join(words: tuple[str, ...]) -> str:
    """a, b or c."""
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))
