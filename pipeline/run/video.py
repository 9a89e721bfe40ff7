"""The files of one video: its pixels, and the masks that were given for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cache.digests import FileDigests
from pipeline.errors import UserError
from pipeline.plan.inputs import mask_digest, open_video
from pipeline.plan.recipe import read

if TYPE_CHECKING:
    from pipeline.datasets import Video
    from stages.frames import FrameReader, Manifest, MaskSource
    from stages.types import IndexMask


class VideoFiles:
    """What a run's recipe names as one of its videos, read from where it lies."""

    def __init__(self, root: Path, run_digest: str, video: str) -> None:
        """root: the artifact root."""
        self.video = video
        self._root, self._run_digest = root, run_digest
        self._settings = read(root, run_digest).settings.frames

    @cached_property
    def source(self) -> Video:
        """Where the video's files are."""
        return open_video(self._root, self._run_digest, self.video)

    def frames(self) -> FrameReader:
        """The video's pixels."""
        from stages.frames import open_frames

        return open_frames(self.source.frames, video=self.video)

    def working_frames(self) -> FrameReader:
        """The video's pixels as the networks see them."""
        from stages.frames import working_frames

        return working_frames(self.frames(), self._settings)

    def manifest(self) -> Manifest:
        """Names, size and digests of the frames; BadInput if they or the masks are unfit."""
        from stages.frames import manifest, mask_files

        with FileDigests(self._root) as digests:
            found = manifest(self.source.frames, self.video, digests.digest)
        last = max(self.source.first_masks)
        if last >= len(found.names):
            raise UserError(
                f"video {self.video}: mask {mask_files(self.source.first_masks[last])[0]} is for "
                f"frame {last}, but the video has {len(found.names)} frames, numbered from 0"
            )
        self.first_masks(found.size)
        return found

    def digest(self, mask: MaskSource) -> str:
        """Digest of a mask that was given."""
        with FileDigests(self._root) as digests:
            return mask_digest(digests, mask, self.video)

    def first_masks(self, size: tuple[int, int]) -> dict[int, IndexMask]:
        """The given masks (H, W) by frame; BadInput if one does not fit the size."""
        return self._masks(self.source.first_masks, size, given=True)

    def annotations(self, size: tuple[int, int]) -> Callable[[int], IndexMask | None]:
        """The annotation of a frame, None where there is none; BadInput as above."""
        truths = self.source.annotations or {}

        def read(j: int) -> IndexMask | None:
            return self._masks({j: truths[j]}, size, given=False)[j] if j in truths else None

        return read

    def _masks(
        self, sources: Mapping[int, MaskSource], size: tuple[int, int], *, given: bool
    ) -> dict[int, IndexMask]:
        from stages.frames import read_index_mask

        name = self.source.frame_name
        return {
            j: read_index_mask(source, size, self.video, name(j), given=given)
            for j, source in sources.items()
        }
