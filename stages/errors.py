"""What a stage finds wrong that a person can mend; imports nothing, so that any door may."""

from __future__ import annotations


class BadInput(ValueError):
    """What a person gave, files or settings, and cannot be used; one line that says what mends it.

    The line names the video, the frame and the path where there are such.
    """
