"""What every artifact holds: one table each, checked at every write and read.

`python -m cache.schemas > docs/artifacts.md` renders them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import hdf5plugin

Dimension = int | str
"""A number, or a symbol, or a symbol plus or minus a number such as T-1."""

FILTERS: dict[str, Mapping[str, Any]] = {
    "gzip-1": {"compression": "gzip", "compression_opts": 1},
    "zstd-1": dict(hdf5plugin.Zstd(clevel=1)),
    "zstd-3": dict(hdf5plugin.Zstd(clevel=3)),
    "shuffle + zstd-3": {"shuffle": True, **hdf5plugin.Zstd(clevel=3)},
}
"""h5py's arguments by the name used here; fletcher32 comes on top of each, always."""


@dataclass(frozen=True)
class Field:
    """One dataset of an artifact."""

    name: str
    dtype: str
    """numpy's name, or utf8"""
    shape: tuple[Dimension, ...]
    meaning: str
    units: str = ""
    filter: str = "gzip-1"
    rows: int = 0
    """rows in a chunk; 0: as many as make about a megabyte"""
    optional: bool = False
    wider: str = ""
    """dtype that it may have too"""
    scale: int = 0
    """attribute `scale`: stored value = scale * quantity; 0: none"""

    @property
    def dtypes(self) -> tuple[str, ...]:
        """What its values may be stored as."""
        return (self.dtype, self.wider) if self.wider else (self.dtype,)


@dataclass(frozen=True)
class Schema:
    """One kind of artifact."""

    stage: str
    meaning: str
    fields: tuple[Field, ...]
    streamed: bool = False
    """written to disk as it grows; the others are built in memory"""
    version: int = 1
    """enters the key; raise it when the table changes"""

    @property
    def folder(self) -> str:
        """Path below the artifact root."""
        return self.stage.replace("memo-", "memo/")

    def field(self, name: str) -> Field:
        """The field called `name`; ValueError if there is none."""
        for field in self.fields:
            if field.name == name:
                return field
        raise ValueError(f"{self.stage}: no dataset is called {name}")

    def check(self, found: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        """Compare the (dtype, shape) of all datasets of an artifact; ValueError names the first
        that is missing, unknown or wrong. A symbol has one value in the whole artifact."""
        sizes: dict[str, int] = {}
        for name in found:
            self.field(name)
        for field in self.fields:
            if field.name not in found:
                if field.optional:
                    continue
                raise ValueError(f"{self.stage}: {field.name} is missing")
            dtype, shape = found[field.name]
            if dtype not in field.dtypes:
                raise ValueError(f"{self.stage}: {field.name} is {dtype}, not {field.dtype}")
            if len(shape) != len(field.shape) or not all(
                _agrees(d, n, sizes) for d, n in zip(field.shape, shape, strict=True)
            ):
                raise ValueError(
                    f"{self.stage}: {field.name} has shape {shape}, not {_shape(field.shape)}"
                )


def _agrees(dimension: Dimension, actual: int, sizes: dict[str, int]) -> bool:
    if isinstance(dimension, int):
        return actual == dimension
    symbol, offset = re.fullmatch(r"(\w+)([+-]\d+)?", dimension).groups()  # type: ignore[union-attr]
    return sizes.setdefault(symbol, actual - int(offset or 0)) == actual - int(offset or 0)


def _shape(shape: tuple[Dimension, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


_BOX = "px, xyxy"

_FRAMES = Schema(
    "frames",
    "The manifest of a video; its pixels stay in their source.",
    (
        Field("names", "utf8", ("T",), "frame names: file stems, or 00000 on for a video file"),
        Field("size", "int32", (2,), "H and W of every frame", "px"),
        Field("fps", "float64", (1,), "frames a second", "1/s"),
        Field("digests", "utf8", ("T",), "digest of each frame's source", "hex"),
        Field("first_mask_frames", "int32", ("n",), "frames that have a given mask", "frame"),
        Field("first_mask_digests", "utf8", ("n",), "digest of each given mask's file", "hex"),
        Field("annotations_digest", "utf8", (1,), "digest of all annotations; empty: none", "hex"),
    ),
)

_FEATURES = Schema(
    "features",
    "N_feat's output f_i of every frame (section 3).",
    (
        Field(
            "coarse", "float16", ("T", "C", "h", "w"), "f_i at stride 8", filter="zstd-1", rows=1
        ),
        Field(
            "fine",
            "float16",
            ("T", "C4", "h4", "w4"),
            "thin features at stride 4; absent without refinement",
            filter="zstd-1",
            rows=1,
            optional=True,
        ),
    ),
    streamed=True,
)

_FLOW = Schema(
    "flow",
    "Optical flow between neighbouring frames, both ways (section 3.2).",
    (
        Field(
            "to_previous",
            "int16",
            ("T-1", 2, "H", "W"),
            "row t: x, y from each pixel of frame t+1 to its place in frame t",
            "1/64 px",
            "shuffle + zstd-3",
            rows=1,
            scale=64,
        ),
        Field(
            "to_next",
            "int16",
            ("T-1", 2, "H", "W"),
            "row t: x, y from each pixel of frame t to its place in frame t+1",
            "1/64 px",
            "shuffle + zstd-3",
            rows=1,
            scale=64,
        ),
    ),
    streamed=True,
)

_PROPOSALS = Schema(
    "proposals",
    "The RPN's boxes b_i of every frame, highest objectness first (section 3.1).",
    (
        Field("boxes", "float32", ("N", 4), "boxes of all frames, one frame after another", _BOX),
        Field("objectness", "float32", ("N",), "how much each looks like an object", "0..1"),
        Field("offsets", "int64", ("T+1",), "frame j has rows offsets[j] .. offsets[j+1] - 1"),
    ),
)

_EMBEDDINGS = Schema(
    "embeddings",
    "The Re-ID network's vector of every proposal (section 3.1).",
    (Field("vectors", "float32", ("N", "E"), "unit vectors, in the order of the proposals"),),
)

_SEARCH = Schema(
    "search",
    "Windows of every frame that look like a given mask (an extension to section 3.1).",
    (
        Field("boxes", "float32", ("N", 4), "windows of all frames, one frame after another", _BOX),
        Field("vectors", "float32", ("N", "E"), "the Re-ID network's unit vector of each"),
        Field("offsets", "int64", ("T+1",), "frame j has rows offsets[j] .. offsets[j+1] - 1"),
    ),
)

_EVIDENCE = Schema(
    "evidence",
    "How well boxes agree with the memory of given masks (an extension to section 3.1).",
    (
        Field("objects", "int32", ("O",), "objects with a given mask, ascending", "object ID"),
        Field(
            "values", "float32", ("N", "O"), "of each frame's proposals, then its windows", "0..1"
        ),
        Field("offsets", "int64", ("T+1",), "frame j has rows offsets[j] .. offsets[j+1] - 1"),
    ),
)

_START = (
    Field("frame", "int32", ("S",), "frame of the starting point", "frame"),
    Field("object", "int32", ("S",), "its object, as in the dataset", "object ID"),
    Field("similarity", "float64", ("S",), "to its object, rho_reid's scale; 1 if given"),
    Field("box", "float32", ("S", 4), "the box that its mask fills", _BOX),
    Field("mask", "uint8", ("S", "s", "s"), "foreground probability in the box", "1/255"),
    Field("given", "bool", ("S",), "whether the mask was given with the video"),
)

_MATCHES = Schema(
    "matches",
    "Starting points that Re-ID found in one iteration, in propagation order (section 3.1).",
    (
        *_START,
        Field("converged", "bool", (1,), "no starting point was left to propagate"),
        Field("template_frame", "int32", ("N",), "frame of each template not given", "frame"),
        Field("template_object", "int32", ("N",), "its object", "object ID"),
    ),
    version=2,
)

_TRACKLETS = Schema(
    "tracklets",
    "Starting points of all iterations so far, propagated both ways (section 3.2).",
    (
        *_START,
        Field("iteration", "int32", ("S",), "iteration that accepted it, from 1"),
        Field("first", "int32", ("S",), "first frame that it covers", "frame"),
        Field("offsets", "int64", ("S+1",), "tracklet k has rows offsets[k] .. offsets[k+1] - 1"),
        Field("boxes", "float32", ("L", 4), "RoI boxes, one row a covered frame", _BOX),
        Field("masks", "uint8", ("L", "s", "s"), "foreground probability in the box", "1/255"),
    ),
)

_TUBE_FIELDS = (
    Field(
        "masks",
        "uint8",
        ("T", "H", "W"),
        "index masks: 0 background, else the object",
        "object ID",
        "zstd-3",
        rows=8,
        wider="uint16",
    ),
    Field("confidence", "float32", ("T", "O"), "mean foreground probability, 0: absent", "0..1"),
    Field("objects", "int32", ("O",), "the objects, ascending", "object ID"),
    Field("owner", "int32", ("O", "T"), "tracklet that gives the mask, -1: none", "tracklet"),
    Field("merged", "bool", ("S",), "per tracklet: False if contradictory, hence dropped"),
    Field("offer_frame", "int32", ("N",), "frame of each mask offered as a template", "frame"),
    Field("offer_object", "int32", ("N",), "its object", "object ID"),
    Field("offer_box", "float32", ("N", 4), "its tight box", _BOX),
    Field("offer_confidence", "float32", ("N",), "its mean foreground probability", "0..1"),
)

_TUBES = Schema(
    "tubes",
    "One mask tube an object, linked from the tracklets, and what it offers as templates "
    "(sections 3.2 and 3.3).",
    _TUBE_FIELDS,
    streamed=True,
)

_MSK = Schema(
    "msk",
    "The tubes of the baseline MSK (Table 1): `merged` and the offers are empty, `owner` is -1.",
    _TUBE_FIELDS,
    streamed=True,
)

_SCORES = Schema(
    "scores",
    "J and F per annotated frame and object, and the starting points' counts (Table 2).",
    (
        Field("frame", "int32", ("R",), "annotated frame", "frame"),
        Field("object", "int32", ("R",), "object in it", "object ID"),
        Field("J", "float64", ("R",), "region similarity", "0..1"),
        Field("F", "float64", ("R",), "boundary accuracy", "0..1"),
        Field("starts_correct", "int64", (1,), "starting points with IoU >= 0.5"),
        Field("starts_total", "int64", (1,), "starting points in annotated frames"),
        Field("pairs_found", "int64", (1,), "visible pairs that a correct starting point hit"),
        Field("pairs_visible", "int64", (1,), "(frame, object) pairs annotated and visible"),
        Field("masks_digest", "utf8", (1,), "digest of the masks scored", "hex", optional=True),
    ),
)

_MEMO_TRACKLET = Schema(
    "memo-tracklet",
    "One tracklet by its starting point, which is in the recipe, as far as a run carried it.",
    (
        Field("first", "int32", (1,), "first frame that it covers", "frame"),
        Field("ended", "bool", (2,), "whether it was carried to its end, backward and forward"),
        Field("boxes", "float32", ("L", 4), "RoI boxes, one row a covered frame", _BOX),
        Field("masks", "uint8", ("L", "s", "s"), "foreground probability in the box", "1/255"),
    ),
    version=2,
)

_MEMO_VECTOR = Schema(
    "memo-vector",
    "Re-ID vectors of boxes that tubes offered: those that one run added for a video.",
    (
        Field("frame", "int32", ("N",), "frame of the box", "frame"),
        Field("box", "float32", ("N", 4), "tight box of a tube's mask", _BOX),
        Field("vector", "float32", ("N", "E"), "the Re-ID network's unit vector"),
    ),
)

_MEMO_MASK = Schema(
    "memo-mask",
    "Masks that the mask network saw in boxes: those that one run added for a video.",
    (
        Field("frame", "int32", ("N",), "frame of the box", "frame"),
        Field("box", "float32", ("N", 4), "proposal box", _BOX),
        Field("mask", "uint8", ("N", "s", "s"), "foreground probability in the box", "1/255"),
    ),
)

SCHEMAS: dict[str, Schema] = {
    schema.stage: schema
    for schema in (
        _FRAMES,
        _FEATURES,
        _FLOW,
        _PROPOSALS,
        _EMBEDDINGS,
        _SEARCH,
        _EVIDENCE,
        _MATCHES,
        _TRACKLETS,
        _TUBES,
        _MSK,
        _SCORES,
        _MEMO_TRACKLET,
        _MEMO_MASK,
        _MEMO_VECTOR,
    )
}
"""By stage, in the order of the pipeline."""

_INTRODUCTION = """\
# Artifacts

Made by `python -m cache.schemas > docs/artifacts.md`; a test compares.

Everything a run computes for a video is one HDF5 file a stage:
`<root>/<stage>/<dataset>/<video>/<first 16 digits of the key>.h5`. The key is a digest of the
recipe: the stage, its version and settings, the keys of its inputs, the digests of weights.
A file never changes once it has its name. To read one outside this project:

```python
import h5py, hdf5plugin  # hdf5plugin brings the zstd filter; without it reads fail obscurely

masks = h5py.File("<root>/tubes/davis16/bear/<key>.h5", "r", locking=False)["masks"][:]
```

Strings are fixed-length UTF-8: h5py gives bytes, `.asstr()` gives str. Every dataset is
chunked and carries a fletcher32 checksum, so that a flipped bit is an error, never a value.
Frames count from 0. Boxes are x0, y0, x1, y1 with x1 and y1 exclusive and pixel centres at
+0.5; a box mask divides its box into s x s equal cells. Features, flow and all boxes lie in the
frame as it is scaled for the networks (setting `frames.height`).

| Attribute | Content |
|---|---|
| recipe | JSON: everything the content depends on |
| key | digest of the recipe, 32 hexadecimal digits |
| inputs | JSON: the key of each input |
| versions | JSON: Python and library versions |
| host, device | where it was computed |
| wall_seconds | how long that took |
| complete | 1 |

## Care

`dyenet verify` reads every artifact, recipe, record and digest and sets aside as `.bad` what is
not as it was written. `dyenet prune` lists what no kept run reaches, with `--max-size` also what
runs do reach, the least recently used first. An artifact was last used when a run that reaches it
was last planned, which that run records in `<root>/runs/`; reading writes nothing. While a process
works on a run it keeps a file below `<root>/working/` young, and nothing is pruned that its run
reaches or that was made since it began. The file of a killed process counts for three minutes
more. Images of archives (`<root>/unpacked/`) and masks drawn from a `--box` (`<root>/boxes/`) are
no artifacts: prune takes them an hour after their last use, unless a process works.

With `--keep results` a video's features, flow, proposals, embeddings, search and evidence are
removed once it is exported, unless another run under way reaches them. A sweep makes what its
values share once. A later run with other settings makes them again; how long they took is missing
in the report ([measurements.md](measurements.md#speed-and-memory) has the cost).

## Fields

| Symbol | Meaning |
|---|---|
| T | frames |
| H, W | height and width in px: in flow of the scaled frame, in masks of the video's own |
| C, h, w | channels of f_i, ceil(H/8), ceil(W/8) |
| C4, h4, w4 | channels of the stride-4 features, ceil(H/4), ceil(W/4) |
| N | proposals of all frames; offers; memoised masks |
| E | width of an embedding, 256 |
| S | starting points, or the tracklets grown from them |
| s | side of a box mask in cells |
| L | covered frames of all tracklets |
| O | objects |
| n | given masks |
| R | scored pairs of frame and object |
"""


def render_markdown() -> str:
    """docs/artifacts.md."""
    return _INTRODUCTION + "".join(_section(schema) for schema in SCHEMAS.values())


def _section(schema: Schema) -> str:
    rows = "".join(
        f"| {f.name} | {' or '.join(f.dtypes)} | {_shape(f.shape)} | {f.units} | {f.filter} "
        f"| {f.meaning}{_notes(f)} |\n"
        for f in schema.fields
    )
    return (
        f"\n## {schema.stage}\n\n{schema.meaning}\n\n"
        "| Dataset | dtype | Shape | Units | Filter | Meaning |\n|---|---|---|---|---|---|\n"
        f"{rows}"
    )


def _notes(field: Field) -> str:
    optional = "; optional" if field.optional else ""
    return f"{optional}; attribute scale = {field.scale}" if field.scale else optional


if __name__ == "__main__":
    print(render_markdown(), end="")
