"""Video files, decoded by FFmpeg through PyAV."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from stages.types import Image

FORMATS = (
    *("mov", "matroska", "avi", "gif", "flv", "asf", "mpegts", "mpeg", "ogg", "mxf", "nut"),
    *("ivf", "rm", "dv", "h264", "hevc", "mpegvideo", "m4v", "mjpeg", "yuv4mpegpipe", "apng"),
    *("png_pipe", "jpeg_pipe", "bmp_pipe", "tiff_pipe", "webp_pipe"),
)
"""what FFmpeg may take a file for: not a playlist, whose frames lie in other files"""
OPTIONS = {"protocol_whitelist": "file", "format_whitelist": ",".join(FORMATS)}
QUARTERS = {
    90: cv2.ROTATE_90_CLOCKWISE,
    180: cv2.ROTATE_180,
    270: cv2.ROTATE_90_COUNTERCLOCKWISE,
}
"""OpenCV's name of a turn by degrees"""


class Unreadable(Exception):
    """A file that is no video file, or a place in one that cannot be decoded."""


class Decoder:
    """The frames of a video file, one after the other from the first; to be closed."""

    def __init__(self, path: Path) -> None:
        """Unreadable if the file holds no video."""
        try:
            self._file = av.open(f"file:{path}", options=OPTIONS)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise Unreadable(str(error)) from error
        best = self._file.streams.best("video")
        # Of a stream that nothing decodes PyAV has no codec_context, nor a size.
        if (
            best is None
            or not isinstance(best, av.VideoStream)
            or best.codec_context is None
            or min(best.height, best.width) < 1
        ):
            self._file.close()
            raise Unreadable("no video in it")
        best.thread_type = "AUTO"
        self._stream, self._frames = best, self._decoded()
        self._frame: av.VideoFrame | None = None
        # One for all frames and in this thread: by default each frame starts threads of its own.
        self._converter = VideoReformatter()
        self.stored = best.height, best.width
        """(H, W) px before it is turned as the file says"""
        rate = best.average_rate or best.guessed_rate
        self.fps = float(rate) if rate else None
        """frames a second on average, None where the file names no rate"""

    def close(self) -> None:
        """Close the file; nothing can be read of it any more."""
        self._frames.close()
        self._file.close()

    @property
    def estimate(self) -> int:
        """How many frames the container says there are, mostly an estimate; 0 if nothing."""
        seconds = 0.0
        if self._stream.duration is not None and self._stream.time_base is not None:
            seconds = float(self._stream.duration * self._stream.time_base)
        elif self._file.duration is not None:
            seconds = self._file.duration / av.time_base
        return self._stream.frames or max(0, int(seconds * (self.fps or 0.0) + 0.5))

    def grab(self) -> bool:
        """Decode the next frame; False at the end. Unreadable where it is damaged."""
        try:
            self._frame = next(self._frames, None)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise Unreadable(str(error)) from error
        return self._frame is not None

    def image(self) -> Image:
        """The frame that was grabbed last, as viewers show it: (H, W, 3) uint8 RGB."""
        assert self._frame is not None
        # Through BGR, whose conversion FFmpeg has in more exact form than that to RGB.
        convert = self._converter.reformat
        converted = convert(self._frame, format="bgr24", interpolation="BICUBIC", threads=1)
        bgr = converted.to_ndarray()
        if self.degrees in QUARTERS:
            bgr = cv2.rotate(bgr, QUARTERS[self.degrees])
        return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)

    @property
    def degrees(self) -> int:
        """By how much viewers turn the frame that was grabbed last, clockwise: 0 to 359."""
        return -round(self._frame.rotation) % 360 if self._frame is not None else 0

    def _decoded(self) -> Generator[av.VideoFrame, None, None]:
        yield from self._file.decode(self._stream)
