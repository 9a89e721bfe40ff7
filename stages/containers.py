"""Whether a video file is whole, by the sizes that its container gives for its parts.

A decoder takes a file that was cut short for one that ends there, and most containers only
estimate how many frames they hold. But the parts of a whole file lie within what holds them.
Files of another kind, and live recordings, which give no size, count as whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import BinaryIO

Part = tuple[bytes, int, int]
"""name, first byte and end of a part's content"""
Parts = Callable[[BinaryIO, int, int], Iterator[Part]]
"""the parts of a file between two of its bytes"""

EBML = bytes.fromhex("1a45dfa3")
GIF = b"GIF8"
SEGMENT = bytes.fromhex("18538067")
CLUSTER = bytes.fromhex("1f43b675")
MP4 = b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"
"""what an MP4 or QuickTime file can begin with"""
RIFF_HOLDERS = b"RIFF", b"LIST"
UNKNOWN = 0xFFFFFFFF
"""the size of a RIFF file that is still being written"""


def whole(file: BinaryIO) -> bool:
    """Whether the parts of an AVI, Matroska, WebM, MP4, QuickTime or GIF file are all there."""
    end = file.seek(0, os.SEEK_END)
    head = _at(file, 0, 8)
    if head[:4] == b"RIFF":
        return _fits(file, 0, end, _riff, RIFF_HOLDERS)
    if head[:4] == EBML:
        return _fits(file, 0, end, _ebml, (SEGMENT, CLUSTER))
    if head[4:] in MP4:
        return _fits(file, 0, end, _boxes, ())
    if head[:4] == GIF:
        return _at(file, max(0, end - 64), 64).rstrip(b"\0").endswith(b";")
    return True


def counted(file: BinaryIO) -> bool:
    """Whether the container counts its frames exactly; most only estimate how many there are."""
    return _at(file, 0, 4) == GIF


def _fits(file: BinaryIO, start: int, end: int, parts: Parts, holders: tuple[bytes, ...]) -> bool:
    """Whether each part between two bytes ends there or before, and so do the parts in holders."""
    return all(
        last <= end and (name not in holders or _fits(file, first, last, parts, holders))
        for name, first, last in parts(file, start, end)
    )


def _riff(file: BinaryIO, start: int, end: int) -> Iterator[Part]:
    """Chunks of an AVI file; each begins at an even byte, but some programs leave that out."""
    while start + 8 <= end:
        if not _at(file, start, 4).isalnum() and _at(file, start - 1, 4).isalnum():
            start -= 1
        head = _at(file, start, 8)
        name, size = head[:4], int.from_bytes(head[4:], "little")
        if not head.strip(b"\0") or size == UNKNOWN or (name in RIFF_HOLDERS and not size):
            return
        if not name.isascii():
            yield name, start, end + 1
            return
        yield name, start + (12 if name in RIFF_HOLDERS else 8), start + 8 + size
        start += 8 + size + size % 2


def _ebml(file: BinaryIO, start: int, end: int) -> Iterator[Part]:
    """Elements of a Matroska file, up to one of unknown size."""
    while start < end:
        head = _at(file, start, 12)
        name = head[: _length(head[0])]
        width = _length(head[len(name)]) if len(name) < len(head) else 0
        digits = head[len(name) : len(name) + width]
        if not 1 <= len(name) <= 4 or not width:
            yield b"", start, end + 1
            return
        size = int.from_bytes(digits, "big") & ((1 << 7 * width) - 1)
        if size == (1 << 7 * width) - 1:
            return
        first = start + len(name) + width
        yield name, first, first + size
        start = first + size


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[Part]:
    """Boxes of an MP4 file; one of size 0 lasts to its end."""
    while start + 8 <= end:
        head = _at(file, start, 16)
        size = int.from_bytes(head[:4], "big")
        size = int.from_bytes(head[8:], "big") if size == 1 else size
        if size < 8:
            return
        yield head[4:8], start + 8, start + size
        start += size


def _length(byte: int) -> int:
    """Bytes of an EBML number by its first; 0 if it is none."""
    return 9 - byte.bit_length() if byte else 0


def _at(file: BinaryIO, start: int, count: int) -> bytes:
    file.seek(start)
    return file.read(count)
