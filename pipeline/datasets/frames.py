"""The frames of one's own clip: a folder, a video file, a numbered series or an archive."""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cache.digests import FileDigests
from cache.files import reporting, temporary
from pipeline.datasets.layout import IMAGES, in_order, one_each, picture_files
from pipeline.datasets.masks.shapes import Frame
from pipeline.datasets.reading import Reading
from pipeline.errors import UserError
from stages.films import Decoder, Unreadable
from stages.frames import Film, FrameSource

VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"}
NUMBERED = re.compile(r"%(?:0(\d+))?d")
"""the number in the name of a series, as C's printf writes it"""
URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)


@dataclass(frozen=True)
class Clip:
    """The frames of a clip, and which of them are taken."""

    name: str
    source: FrameSource
    """what is taken"""
    names: Sequence[str]
    """stems of what is taken; empty for a video file"""
    every_name: Sequence[str]
    """stems of all frames that there are; empty for a video file"""
    film: Film | None
    """of a video file"""

    def find(self, path: Path, frame: Frame) -> int:
        """Which frame a mask is of: by what its file says, or by what it is named after.

        -1 for one outside of what is taken. UserError if there is no such frame.
        """
        known = self._known(path.stem if frame is None else frame)
        if known is None:
            named = ", ".join(self.every_name[:2]) or "00000, 00001"
            about = "is named after" if frame is None else f"is of {frame}, which is"
            raise UserError(
                f"video {self.name}: mask {path} {about} no frame; they are {named}, ..."
            )
        return known

    def has(self, name: str) -> bool:
        """Whether a frame goes by that name."""
        return self._number(name) is not None

    def _known(self, frame: str | int) -> int | None:
        number = self._number(frame)
        if number is None:
            return None
        if self.film is not None:
            place, last = self.film.place(number), self.film.last
            between = self.film.first < number and (last is None or number < last)
        else:
            named, taken = self.every_name[number], list(self.names)
            place = taken.index(named) if named in taken else None
            first, end = (self.every_name.index(taken[n]) for n in (0, -1))
            between = first < number < end
        if place is None and between:
            raise UserError(
                f"video {self.name}: there is a mask of frame {frame}, which --every or --fps "
                "leaves out; take other frames, or take the mask away"
            )
        return -1 if place is None else place

    def _number(self, frame: str | int) -> int | None:
        """A frame's place among all that there are."""
        if isinstance(frame, int):
            return frame if self.film is not None or frame < len(self.every_name) else None
        if self.film is None:
            return self.every_name.index(frame) if frame in self.every_name else None
        return int(frame) if frame.isascii() and frame.isdigit() else None


def open_clip(path: Path, reading: Reading, masks: Iterable[Path] = ()) -> Clip:
    """The frames at a path; masks: pictures that may lie among them and are none.

    UserError for a path without frames, and a selection that takes none.
    """
    if path.is_dir():
        return _series(path.absolute().name, _pictures(path, set(masks)), reading)
    if path.exists():
        return _film(path, reading)
    if NUMBERED.search(path.name) and path.parent.is_dir():
        return _series(path.absolute().parent.name, _matching(path), reading)
    if URL.match(str(path)):
        raise UserError(f"{path}: is an address; download the video, and give the file")
    raise UserError(f"{path}: no such clip; give a video file or a folder of images")


def _pictures(folder: Path, masks: set[Path]) -> tuple[Path, ...]:
    found = tuple(path for path in picture_files(folder) if path not in masks)
    if not found:
        raise UserError(f"video {folder.absolute().name}: {folder} holds no images")
    try:
        one_each((path.stem, path) for path in found)
    except UserError as error:
        raise UserError(
            f"{error}; if it is a frame's mask, give it or the folder as the mask"
        ) from None
    return found


def _matching(path: Path) -> tuple[Path, ...]:
    """The files of a numbered series, by number."""
    number = NUMBERED.search(path.name)
    assert number is not None
    digits = f"[0-9]{{{number[1] or 1},}}"
    head, tail = path.name[: number.start()], path.name[number.end() :]
    wanted = re.compile(re.escape(head) + digits + re.escape(tail))
    found = in_order(p for p in path.parent.iterdir() if wanted.fullmatch(p.name))
    if not found:
        raise UserError(f"{path}: {path.parent} holds no file of that name with a number")
    return found


def _series(name: str, paths: Sequence[Path], reading: Reading) -> Clip:
    if reading.fps:
        raise UserError(f"video {name}: --fps is for a video file; give --every for images")
    end = None if reading.end is None else reading.end + 1
    taken = tuple(paths[reading.start : end : reading.every])
    if not taken:
        raise UserError(f"video {name}: has {len(paths)} frames, none from --start {reading.start}")
    stems = [path.stem for path in paths]
    return Clip(name, taken, [path.stem for path in taken], stems, None)


def _film(path: Path, reading: Reading) -> Clip:
    step = float(reading.every or 1)
    if reading.fps:
        step = max(1.0, _rate(path) / reading.fps)
    film = Film(path, reading.start or 0, reading.end, step)
    return Clip(path.stem, film if reading.selects else path, (), (), film)


def _rate(path: Path) -> float:
    """Frames a second of a video file."""
    try:
        with closing(Decoder(path)) as film:
            rate = film.fps
    except Unreadable as error:
        raise UserError(f"{path}: cannot be opened as a video file") from error
    if not rate:
        raise UserError(f"{path}: names no frames a second for --fps; give --every")
    return rate


def unpacked_clip(path: Path, reading: Reading, root: Path) -> Clip:
    """open_clip() of a path that may be an archive; root: the artifact root."""
    archive = path.suffix.lower() == ".zip" and path.is_file()
    return open_clip(unpacked(path, root) if archive else path, reading)


def unpacked(archive: Path, root: Path) -> Path:
    """The folder below an artifact root with the images of a zip file, by what it holds.

    UserError for a file that is no archive or holds two images of one name; CacheError if the
    root cannot be written to.
    """
    with FileDigests(root) as digests:
        place = root / "unpacked" / digests.digest(archive)[:16] / archive.stem
    if place.is_dir():
        # Its last use, after which prune counts.
        with suppress(OSError):
            os.utime(place)
        return place
    draft = temporary(place)
    try:
        with reporting(place):
            draft.mkdir(parents=True)
            with zipfile.ZipFile(archive) as file:
                for member in file.infolist():
                    _unpack(file, member, draft, archive)
            # Another process may have been first.
            if not place.is_dir():
                draft.rename(place)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{archive}: cannot be unpacked ({error}); unpack it yourself") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return place


def _unpack(file: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path, archive: Path) -> None:
    """Write an image of an archive into a folder, whatever folder it had there."""
    inside = PurePosixPath(member.filename)
    hidden = any(part.startswith((".", "__MACOSX")) for part in inside.parts)
    if member.is_dir() or hidden or inside.suffix.lower() not in IMAGES:
        return
    place = folder / inside.name
    if place.exists():
        raise UserError(f"{archive}: holds two files {inside.name}; unpack it, and give one folder")
    with file.open(member) as source, place.open("wb") as target:
        shutil.copyfileobj(source, target)
