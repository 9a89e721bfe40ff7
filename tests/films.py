"""Films for tests, in any codec that FFmpeg writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

MATRICES = {"ITU601": 6, "ITU709": 1}
"""PyAV's names of conversions from RGB, and the numbers that files say them by"""


def write_film(
    path: Path,
    images: Sequence[np.ndarray],
    codec: str = "libx264",
    pixels: str = "yuv420p",
    matrix: str = "ITU601",
    times: Sequence[int] | None = None,
    **options: str,
) -> Path:
    """A film of RGB images, 12 a second; times: of each, in twelfths of a second."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, 12, options)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt, stream.codec_context.colorspace = pixels, MATRICES[matrix]
        for j, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame = frame.reformat(format=pixels, dst_colorspace=matrix)
            frame.pts = times[j] if times else j
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def turn(path: Path, degrees: int) -> Path:
    """Have an MP4 file say that viewers are to turn it clockwise by 90, 180 or 270 degrees."""
    a, b = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees], 0x10000
    plain = np.array([b, 0, 0, 0, b, 0, 0, 0, 0x40000000], ">i4").tobytes()
    turned = np.array([a[0] * b, a[1] * b, 0, -a[1] * b, a[0] * b, 0, 0, 0, 0x40000000], ">i4")
    data = path.read_bytes()
    at = data.index(plain, data.index(b"tkhd"))
    path.write_bytes(data[:at] + turned.tobytes() + data[at + len(plain) :])
    return path
