"""Artifacts as the stages read them, and the stages' records as artifacts hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from cache import memo
from cache.keys import Content
from cache.reader import Reader
from cache.store import Store
from cache.writer import Writer
from stages.gaps import Carried
from stages.readers import Boxes, Features, Flow, Proposals
from stages.scores import Scores, StartCounts
from stages.types import Drawn, Linking, Matches, Offers, Rows, StartingPoint, Tracklet

Keep = Callable[[str], Rows]
"""a dataset by name, of which frames stay in memory (pipeline.run.kept)"""


def get_features(reader: Reader, keep: Keep) -> Features:
    """Features; their frames are read when asked for."""
    return Features(keep("coarse"), keep("fine") if "fine" in reader else None)


def get_flow(keep: Keep) -> Flow:
    """Flow; its frames are read when asked for."""
    return Flow(keep("to_previous"), keep("to_next"))


def get_boxes(proposals: Reader, embeddings: Reader, search: Reader) -> Boxes:
    """Proposals, then windows of the search, with their vectors."""
    tables = [proposals.arrays() | embeddings.arrays(), search.arrays()]
    boxes = [Ragged(table["boxes"], table["offsets"]) for table in tables]
    vectors = [Ragged(table["vectors"], table["offsets"]) for table in tables]
    return Boxes(boxes, vectors)


def get_proposals(boxes: Boxes, evidence: Reader) -> Proposals:
    """Boxes with their evidence."""
    return Proposals(boxes, Ragged(evidence["values"][:], evidence["offsets"][:]))


class Ragged:
    """Rows of differing length that lie joined."""

    def __init__(self, values: npt.NDArray[Any], offsets: npt.NDArray[np.int64]) -> None:
        self._values, self._offsets = values, offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, j: int) -> npt.NDArray[Any]:
        return self._values[self._offsets[j] : self._offsets[j + 1]]


def offsets(lengths: Sequence[int]) -> npt.NDArray[np.int64]:
    """Where each of several joined lists begins, and where the last ends."""
    return np.cumsum([0, *lengths], dtype=np.int64)


def put_starts(out: Writer, starts: Sequence[StartingPoint], side: int) -> None:
    """Write starting points; side: s of their masks."""
    out.put("frame", [s.frame for s in starts])
    out.put("object", [s.object_id for s in starts])
    out.put("similarity", [s.similarity for s in starts])
    out.put("box", np.array([s.box for s in starts], np.float32).reshape(-1, 4))
    out.put("mask", np.array([s.mask for s in starts], np.uint8).reshape(-1, side, side))
    out.put("given", [s.given for s in starts])


def get_starts(reader: Reader) -> list[StartingPoint]:
    """Starting points of an artifact, in its order."""
    a = reader.arrays()
    return [
        StartingPoint(
            int(a["frame"][n]),
            int(a["object"][n]),
            float(a["similarity"][n]),
            a["box"][n],
            a["mask"][n],
            bool(a["given"][n]),
        )
        for n in range(len(a["frame"]))
    ]


def put_matches(out: Writer, matches: Matches, side: int) -> None:
    """Write the matches of an iteration."""
    put_starts(out, matches.starts, side)
    out.put("converged", matches.converged)
    out.put("template_frame", [j for j, _ in matches.templates])
    out.put("template_object", [i for _, i in matches.templates])


def get_matches(reader: Reader) -> Matches:
    """The matches of an iteration."""
    added = zip(reader["template_frame"][:], reader["template_object"][:], strict=True)
    templates = tuple((int(j), int(i)) for j, i in added)
    return Matches(tuple(get_starts(reader)), bool(reader["converged"][0]), templates)


def put_tracklets(out: Writer, tracklets: Sequence[Tracklet], side: int) -> None:
    """Write accepted tracklets; side: s of their masks."""
    put_starts(out, [t.start for t in tracklets], side)
    out.put("iteration", [t.iteration for t in tracklets])
    out.put("first", [t.first for t in tracklets])
    out.put("offsets", offsets([len(t.masks) for t in tracklets]))
    boxes = [np.zeros((0, 4), np.float32), *(t.boxes for t in tracklets)]
    masks = [np.zeros((0, side, side), np.uint8), *(t.masks for t in tracklets)]
    out.put("boxes", np.concatenate(boxes))
    out.put("masks", np.concatenate(masks))


def get_tracklets(reader: Reader) -> list[Tracklet]:
    """Accepted tracklets of an artifact, in its order."""
    starts, iteration, first = get_starts(reader), reader["iteration"][:], reader["first"][:]
    boxes, masks, edges = reader["boxes"][:], reader["masks"][:], reader["offsets"][:]
    return [
        Tracklet(
            start,
            int(iteration[n]),
            int(first[n]),
            boxes[edges[n] : edges[n + 1]],
            masks[edges[n] : edges[n + 1]],
        )
        for n, start in enumerate(starts)
    ]


def put_linking(out: Writer, linking: Linking, offers: Offers) -> None:
    """Write what tubes hold besides their masks."""
    out.put("objects", linking.objects)
    out.put("owner", linking.owner)
    out.put("merged", linking.merged)
    out.put("offer_frame", offers.frames)
    out.put("offer_object", offers.objects)
    out.put("offer_box", offers.boxes)
    out.put("offer_confidence", offers.confidences)


def get_linking(tubes: Reader) -> Linking:
    """Which tracklet owns each object in each frame."""
    objects = tuple(int(i) for i in tubes["objects"][:])
    return Linking(objects, tubes["owner"][:], tubes["merged"][:])


def get_drawn(tubes: Reader) -> Drawn:
    """Tubes as they were drawn; their frames are read when asked for."""
    return Drawn(get_linking(tubes), tubes["masks"], tubes["confidence"])


def no_linking(objects: Sequence[int], frames: int) -> tuple[Linking, Offers]:
    """For tubes that no tracklet made."""
    linking = Linking(
        tuple(objects), np.full((len(objects), frames), -1, np.int32), np.zeros(0, np.bool_)
    )
    none = np.zeros(0, np.int32)
    return linking, Offers(none, none, np.zeros((0, 4), np.float32), np.zeros(0, np.float32))


def get_offers(tubes: Reader) -> Offers:
    """Boxes that tubes offer as templates."""
    return Offers(
        tubes["offer_frame"][:],
        tubes["offer_object"][:],
        tubes["offer_box"][:],
        tubes["offer_confidence"][:],
    )


def put_scores(out: Writer, scores: Scores, counts: StartCounts, masks: str) -> None:
    """Write scores; masks: digest of the masks scored."""
    out.put("frame", scores.frames)
    out.put("object", scores.objects)
    out.put("J", scores.j)
    out.put("F", scores.f)
    out.put("starts_correct", counts.correct)
    out.put("starts_total", counts.total)
    out.put("pairs_found", counts.found)
    out.put("pairs_visible", counts.visible)
    out.put("masks_digest", masks)


def get_scores(reader: Reader) -> Scores:
    """J and F of an artifact."""
    return Scores(*(reader[name][:] for name in ("frame", "object", "J", "F")))


def get_counts(reader: Reader) -> StartCounts:
    """Counts of starting points of an artifact."""
    names = ("starts_correct", "starts_total", "pairs_found", "pairs_visible")
    return StartCounts(*(int(reader[name][0]) for name in names))


class StartMemo:
    """Tracklets by their starting point: stages.tracklets.TrackletMemo over the cache."""

    def __init__(self, store: Store, dataset: str, video: str, content: Content) -> None:
        self._memo = memo.TrackletMemo(store, dataset, video, content)

    @property
    def reached(self) -> set[str]:
        """Keys that pruning must know."""
        return self._memo.reached

    def get(self, start: StartingPoint) -> Carried | None:
        parts = [
            Carried(
                Tracklet(start, 0, int(found["first"][0]), found["boxes"], found["masks"]),
                (bool(found["ended"][0]), bool(found["ended"][1])),
            )
            for found in self._memo.get(start.frame, start.object_id, start.box, start.mask)
        ]
        return reduce(Carried.joined, parts) if parts else None

    def put(self, carried: Carried) -> None:
        start, tracklet = carried.tracklet.start, carried.tracklet
        arrays = {"first": tracklet.first, "boxes": tracklet.boxes, "masks": tracklet.masks}
        found = {**arrays, "ended": carried.ended}
        self._memo.put(start.frame, start.object_id, start.box, start.mask, found)


def rows(reader: Reader, name: str) -> Iterator[npt.NDArray[Any]]:
    """A dataset of an artifact, row by row."""
    column = reader[name]
    for j in range(len(column)):
        yield column[j]
