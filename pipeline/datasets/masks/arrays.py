"""NumPy files: an index mask, or one array of true and false for each object."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.datasets.masks.shapes import MOST, Malformed, Shape
from stages.frames import VOID, WIDE_VOID


def read(data: bytes) -> list[Shape]:
    """Objects of a frame.

    (H, W) whole numbers: 0 background, objects 1 to 254, 255 void; in 16 bits or more, where any
    is over 255, objects up to 65000, void 65535. (H, W) true and false, or 0 and 255: one
    object. (N, H, W) of those: N objects. Several arrays in an .npz: each an object by its name.
    """
    loaded = np.load(BytesIO(data), allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return _objects(loaded, "")
    arrays = {name: loaded[name] for name in loaded.files}
    if len(arrays) == 1:
        return _objects(next(iter(arrays.values())), "")
    return [shape for name, array in arrays.items() for shape in _objects(array, name)]


def _objects(array: npt.NDArray[Any], name: str) -> list[Shape]:
    """Objects of one array; name: of its only object."""
    if array.dtype.kind not in "biuf" or array.ndim not in (2, 3):
        raise Malformed(f"holds an array of {array.ndim} dimensions of {array.dtype}, not a mask")
    values = array.astype(np.float64)
    if array.ndim == 3 and array.shape[0] == 1:
        return _objects(array[0], name)
    two = np.isin(values, (0, 1)).all() or np.isin(values, (0, VOID)).all()
    if array.ndim == 3 and not two:
        raise Malformed("holds three dimensions of numbers; give one (H, W) file a frame")
    if two:
        layers = values[None] > 0 if array.ndim == 2 else values > 0
        names = [name] if name else [str(n) for n in range(1, len(layers) + 1)]
        if len(names) != len(layers):
            raise Malformed(f"holds several objects in {name}; give each its own name")
        return [_shape(n, layer) for n, layer in zip(names, layers, strict=True)]
    numbers = np.unique(values)
    void = VOID if numbers[-1] <= VOID else WIDE_VOID
    if name or not np.isin(numbers, (*range(MOST + 1), void)).all():
        raise Malformed(f"holds other values than object numbers 0 to {MOST}")
    return [_shape(str(int(n)), values == n) for n in numbers if 0 < n < void]


def _shape(label: str, pixels: npt.NDArray[np.bool_]) -> Shape:
    height, width = pixels.shape
    return Shape(label, label, (height, width), pixels=pixels)
