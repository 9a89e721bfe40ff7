"""The files of one video: its pixels, and the masks that were given for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from cache.digests import FileDigests, Stamp, bytes_digest, stamp_of
from pipeline.errors import UserError
from pipeline.plan.inputs import (
    Digest,
    images_digest,
    mask_digest,
    masks_digest,
    open_video,
    source_digest,
)
from pipeline.plan.recipe import read

if TYPE_CHECKING:
    from pipeline.datasets import Video
    from stages.frames import FrameReader, Manifest, MaskSource
    from stages.types import IndexMask

MOST = 0.5
"""share of a frame that few objects cover: it is more often the rest, in an inverted mask"""
CHANGED = "changed since the run was planned; run again"


class PlannedFiles:
    """Files of a video, read only as they were when the run was planned.

    A key says what its artifact was made from, so what is decoded is what was digested.
    """

    def __init__(
        self,
        root: Path,
        video: str,
        what: str,
        planned: str,
        joined: Callable[[Digest], str],
        megapixels: int,
    ) -> None:
        """joined: the digest of them all, in the recipe `planned`; UserError if they differ."""
        self.most_pixels = 1_000_000 * megapixels
        self._video = video
        self._known: dict[Path, tuple[Stamp, str]] = {}
        with FileDigests(root) as digests:

            def digest(path: Path) -> str:
                stamp = _stamp(path)
                self._known[path] = stamp, source_digest(digests, path, video)
                return self.digest(path)

            if joined(digest) != planned:
                raise UserError(f"video {video}: its {what} {CHANGED}")

    def digest(self, path: Path) -> str:
        """As it was planned."""
        return self._known[path][1]

    def read(self, path: Path) -> bytes:
        """The bytes of a file; UserError if they are not those planned."""
        data = path.read_bytes()
        if bytes_digest(data) != self.digest(path):
            raise UserError(f"video {self._video}: {path} {CHANGED}")
        return data

    def check(self, path: Path) -> None:
        """UserError if a file was written to since it was digested."""
        if _stamp(path) != self._known[path][0]:
            raise UserError(f"video {self._video}: {path} {CHANGED}")


def _stamp(path: Path) -> Stamp:
    """stamp_of(), empty of a file that is not there."""
    try:
        return stamp_of(path)
    except OSError:
        return []


class VideoFiles:
    """What a run's recipe names as one of its videos, read from where it lies."""

    def __init__(self, root: Path, run_digest: str, video: str) -> None:
        """root: the artifact root."""
        self.video = video
        self._root, self._run_digest = root, run_digest
        self._made = read(root, run_digest).videos[video]
        self._settings = read(root, run_digest).settings.frames

    @cached_property
    def source(self) -> Video:
        """Where the video's files are."""
        return open_video(self._root, self._run_digest, self.video)

    @cached_property
    def _images(self) -> PlannedFiles:
        joined = partial(images_digest, self.source, bits=self._made.bits)
        return self._held("frames", self._made.images, joined)

    @cached_property
    def _first_masks(self) -> PlannedFiles:
        masks = self.source.first_masks
        return self._held("masks", self._made.first_masks, partial(masks_digest, masks))

    @cached_property
    def _annotations(self) -> PlannedFiles:
        masks = self.source.annotations or {}
        planned = self._made.annotations or masks_digest({}, str)
        return self._held("annotations", planned, partial(masks_digest, masks))

    def _held(self, what: str, planned: str, joined: Callable[[Digest], str]) -> PlannedFiles:
        megapixels = self._settings.megapixels
        return PlannedFiles(self._root, self.video, what, planned, joined, megapixels)

    def frames(self) -> FrameReader:
        """The video's pixels."""
        from stages.frames import open_frames

        return open_frames(self.source.frames, self.video, self._images, bits=self._made.bits)

    def working_frames(self) -> FrameReader:
        """The video's pixels as the networks see them."""
        from stages.frames import working_frames

        return working_frames(self.frames(), self._settings)

    def manifest(self) -> Manifest:
        """Names, size and digests of the frames; BadInput if they or the masks are unfit."""
        from stages.frames import manifest, mask_files

        files, bits = self._images, self._made.bits
        found = manifest(self.source.frames, self.video, files.digest, files, bits=bits)
        last = max(self.source.first_masks)
        if last >= len(found.names):
            raise UserError(
                f"video {self.video}: mask {mask_files(self.source.first_masks[last])[0]} is for "
                f"frame {last}, but the video has {len(found.names)} frames, numbered from 0"
            )
        self.first_masks(found.size)
        return found

    def remarks(self, found: Manifest) -> Iterator[str]:
        """What a person should know of how the video was read; found: by manifest()."""
        from stages.boxmask import object_ids
        from stages.frames import DEEP

        if self._made.bits != DEEP:
            yield f"the 16-bit frames hold {self._made.bits} bits, and are read as such"
        for j, mask in self.first_masks(found.size).items():
            for i in object_ids(mask):
                if (share := float((mask == i).mean())) > MOST:
                    yield (
                        f"frame {found.names[j]}: object {i} covers {share:.0%} of the frame; is "
                        "its mask inverted?"
                    )

    def digest(self, mask: MaskSource) -> str:
        """Digest of a mask that was given."""
        return mask_digest(mask, self._first_masks.digest)

    def first_masks(self, size: tuple[int, int]) -> dict[int, IndexMask]:
        """The given masks (H, W) by frame; BadInput if one does not fit the size.

        Of several, one without an object says that none enters there, and is left out.
        """
        from stages.boxmask import is_wide
        from stages.frames import BadInput, holds_object, mask_files, read_index_mask

        given = self.source.first_masks

        def read(wide: bool) -> dict[int, IndexMask]:
            how = {"given": True, "blank": len(given) > 1, "wide": wide}
            name, held = self.source.frame_name, self._first_masks
            return {
                j: read_index_mask(mask, size, self.video, name(j), held, **how)
                for j, mask in given.items()
            }

        masks = read(wide=False)
        if is_wide(masks.values()):
            masks = read(wide=True)
        found = {j: mask for j, mask in masks.items() if holds_object(mask)}
        if not found:
            place = mask_files(given[min(given)])[0].parent
            raise BadInput(f"video {self.video}: no mask in {place} holds an object; paint one")
        return found

    def annotations(self, size: tuple[int, int]) -> Callable[[int], IndexMask | None]:
        """The annotation of a frame, None where there is none; BadInput as above."""
        from stages.boxmask import is_wide
        from stages.frames import read_index_mask

        truths, files = self.source.annotations or {}, self._annotations
        wide = bool(truths) and is_wide(self.first_masks(size).values())

        def read(j: int) -> IndexMask | None:
            if j not in truths:
                return None
            name = self.source.frame_name(j)
            return read_index_mask(truths[j], size, self.video, name, files, wide=wide)

        return read
