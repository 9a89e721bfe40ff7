"""NumPy: an .npz a video, written frame by frame."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from pipeline.results.exports.clip import Clip
from stages.boxmask import index_type


def write(clips: Sequence[Clip], folder: Path) -> None:
    """<video>.npz: `masks` (T, H, W) object numbers, `frames` (T,), `objects` and `names` (N,)."""
    for clip in clips:
        about = {
            "frames": np.array([path.stem for path in clip.paths], str),
            "objects": np.array(clip.objects, np.int64),
            "names": np.array([clip.label(i) for i in clip.objects], str),
        }
        with zipfile.ZipFile(folder / f"{clip.name}.npz", "w", zipfile.ZIP_DEFLATED) as file:
            with file.open("masks.npy", "w", force_zip64=True) as member:
                _stream(clip, member)
            for name, array in about.items():
                with file.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)


def _stream(clip: Clip, member: IO[bytes]) -> None:
    """Write the masks as an .npy file without holding them all."""
    kind = np.dtype(index_type(clip.objects))
    shape = len(clip.paths), *clip.size
    head = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, head)
    for _, mask in clip.masks():
        member.write(mask.astype(kind).tobytes())
