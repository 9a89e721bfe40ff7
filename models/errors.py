"""What is wrong with weights that a person can mend; imports nothing, so that any door may."""

from __future__ import annotations


class BadWeights(ValueError):
    """Weights that cannot be used or had; one line that names the file and the reason."""
