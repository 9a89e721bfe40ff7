"""When nothing is left to look for; free of torch, since planning asks as well."""

from __future__ import annotations

from collections.abc import Iterable


def throughout(spans: Iterable[tuple[int, range]], frames: int) -> set[int]:
    """Objects that the tracklets of given masks hold in every one of `frames` frames.

    spans: object ID and frames of each such tracklet. Linking takes no frame from it, so
    whatever else starts from the object changes nothing (section 3.2 skips what does not affect
    the result).
    """
    held: dict[int, set[int]] = {}
    for i, span in spans:
        held.setdefault(i, set()).update(span)
    return {i for i, seen in held.items() if len(seen) == frames}
