"""What training reads: annotated frames of videos and stills, by the layouts of datasets.

`--data davis16:DAVIS:train,stills:PHOTOS` names them as layout:folder[:split].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from pipeline.datasets import Video, open_dataset
from pipeline.errors import UserError
from stages.boxmask import VOID, is_wide, object_ids
from stages.errors import BadInput
from stages.frames import (
    FrameReader,
    Layers,
    MaskSource,
    mask_files,
    open_frames,
    picture_size,
    read_index_mask,
    resize_mask,
    source_bits,
    working_frames,
    working_size,
)
from stages.settings import FramesSettings
from stages.types import Image, IndexMask


class VideoSource:
    """The annotated frames of a video, as training.clips.Source."""

    def __init__(self, video: Video, masks: dict[int, MaskSource], height: int = 0) -> None:
        """masks: by frame of the video; at least one.

        height: shorter side in px to which frames and masks are scaled; 0: not at all.
        """
        self.video = video
        self.name = video.name
        self._masks = masks
        self._seen = FramesSettings(height)
        self._annotated = sorted(masks)

    def __len__(self) -> int:
        return len(self._annotated)

    @cached_property
    def _frames(self) -> FrameReader:
        source = self.video.frames
        frames = open_frames(source, self.video.name, bits=source_bits(source))
        return working_frames(frames, self._seen)

    @cached_property
    def objects(self) -> Sequence[int]:
        """IDs in the masks given for the video; those of a still are in its one mask."""
        given = self.video.first_masks.items()
        return sorted({i for j, mask in given for i in object_ids(self._read(mask, j))})

    def frame(self, j: int) -> Image:
        """(H, W, 3) uint8 RGB of the j-th annotated frame."""
        return self._frames.decode(self._annotated[j])

    def mask(self, j: int) -> IndexMask:
        """(H, W) uint8; objects that the first masks lack are void."""
        frame = self._annotated[j]
        found = self._read(self._masks[frame], frame)
        known = np.where(np.isin(found, [0, *self.objects]), found, VOID).astype(np.uint8)
        return resize_mask(known, working_size(known.shape, self._seen))

    def _read(self, mask: MaskSource, frame: int) -> IndexMask:
        name = self.video.frame_name(frame)
        if isinstance(mask, Path | Layers):
            size = picture_size(mask_files(mask)[0], f"video {self.name}, frame {name}")
        else:
            size = open_frames(self.video.frames, self.name).size
        found = read_index_mask(mask, size, self.name, name)
        if is_wide([found]):
            raise BadInput(
                f"video {self.name}, frame {name}: mask {mask_files(mask)[0]} holds object "
                f"{max(object_ids(found))}; training takes numbers up to 254"
            )
        return found


def open_sources(data: str, held_out: Iterable[str], cache: Path) -> list[VideoSource]:
    """Sources named as `layout:folder[:split]`, several joined by commas.

    UserError for a layout or folder that is not there, or a held-out name that is unknown.
    """
    sources = [
        VideoSource(video, dict(video.annotations or video.first_masks))
        for part in filter(None, data.split(","))
        for video in _videos(part, cache)
    ]
    left_out = set(held_out)
    unknown = sorted(left_out - {source.name for source in sources})
    if unknown:
        raise UserError(f"--held-out {unknown[0]}: --data {data} has no such video")
    kept = [source for source in sources if source.name not in left_out]
    if not kept:
        raise UserError(f"--data {data}: nothing to train on; give layout:folder[:split]")
    return _checked(kept)


def _checked(sources: list[VideoSource]) -> list[VideoSource]:
    """Sources that hold an object; BadInput for one whose first mask cannot be read."""
    return [source for source in sources if source.objects]


def _videos(part: str, cache: Path) -> Sequence[Video]:
    layout, _, rest = part.partition(":")
    root, _, split = rest.partition(":")
    return open_dataset(layout, root or None, split or "train", cache).videos


def first_frames(videos: Iterable[Video], height: int) -> list[VideoSource]:
    """Every given mask with its frame, each a still image (online training, section 4).

    height: shorter side in px to which they are scaled, as the networks see them later.
    """
    return _checked(
        [
            VideoSource(video, {j: mask}, height)
            for video in videos
            for j, mask in sorted(video.first_masks.items())
        ]
    )
