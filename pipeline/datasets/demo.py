"""The built-in demo: drawn from a seed, with exact masks and exact flow.

Every layer is a texture seen through a smooth invertible map that changes with time: an
affine pose and a small wobble. The map leads from the frame to the texture, so a pixel is
drawn by looking up where it comes from, and its flow is the way to the place where the
same texture point lies in the neighbouring frame.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from pipeline.datasets.davis import videos17
from pipeline.datasets.layout import Video
from pipeline.datasets.palette import davis_palette

VERSION = 2
SPLIT = "demo"
SIZE = (288, 480)
FRAMES = 16
TEXTURE = 512
WOBBLE_STEPS = 12
"""fixed-point steps that invert the wobble; each gains a factor of about four"""

Field = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Clip:
    """A drawn clip."""

    frames: list[npt.NDArray[np.uint8]]
    """(H, W, 3) RGB"""
    masks: list[npt.NDArray[np.uint8]]
    """(H, W) object numbers, 0 background"""
    to_previous: list[Field]
    """T - 1 of (2, H, W) px: from frame t + 1 to frame t, of the surface seen there"""
    to_next: list[Field]
    """T - 1 of (2, H, W) px: from frame t to frame t + 1"""


@dataclass(frozen=True)
class Motion:
    """Positions through time: (x, y, scale, turn) at equal intervals, x and y in frame sides."""

    keys: tuple[tuple[float, float, float, float], ...]

    def at(self, share: float) -> npt.NDArray[np.float64]:
        """Smooth interpolation at a share 0..1 of the clip."""
        keys = np.array(self.keys, np.float64)
        place = share * (len(keys) - 1)
        left = min(int(place), len(keys) - 2)
        ease = 0.5 - 0.5 * np.cos(np.pi * (place - left))
        return keys[left] * (1 - ease) + keys[left + 1] * ease


class Layer:
    """A textured shape (or the background) with its motion."""

    def __init__(
        self,
        rng: np.random.Generator,
        motion: Motion,
        size: tuple[int, int],
        colours: Sequence[tuple[int, int, int]],
        shape: str,
    ) -> None:
        self.motion, self.size, self.shape = motion, size, shape
        self.texture = paint(rng, colours)
        self.radius = size[0] * 0.21
        self.waves = rng.uniform(1.0, 2.0, (2, 2))
        self.phases = rng.uniform(0, 2 * np.pi, 4)
        self.amount = 0.0 if shape == "ground" else 0.07
        self.lobes = rng.uniform(0, 2 * np.pi, 2)

    def _wobble(self, u: Field, t: float) -> Field:
        """Displacement at texture points (..., 2) in units of the radius."""
        beat = 2 * np.pi * t
        x = np.sin(self.waves[0, 0] * u[..., 1] + self.phases[0] + 2 * beat)
        y = np.sin(self.waves[0, 1] * u[..., 0] + self.phases[1] + beat)
        return self.amount * np.stack((x, y), -1)

    def _pose(self, t: float) -> tuple[npt.NDArray[np.float64], float, npt.NDArray[np.float64]]:
        x, y, scale, turn = self.motion.at(t)
        cos, sin = np.cos(turn), np.sin(turn)
        rotation = np.array([[cos, -sin], [sin, cos]])
        return np.array([x * self.size[1], y * self.size[0]]), scale * self.radius, rotation

    def to_texture(self, points: Field, t: float) -> Field:
        """Frame points (..., 2) px to texture points, in units of the radius."""
        centre, scale, rotation = self._pose(t)
        u = (points - centre) @ rotation / scale
        return u + self._wobble(u, t) if self.amount else u

    def to_frame(self, c: Field, t: float) -> Field:
        """The inverse of to_texture()."""
        centre, scale, rotation = self._pose(t)
        u = c
        for _ in range(WOBBLE_STEPS if self.amount else 0):
            u = c - self._wobble(u, t)
        return u * scale @ rotation.T + centre

    def inside(self, c: Field) -> Field:
        """Signed distance to the outline in units of the radius; positive inside."""
        r = np.hypot(c[..., 0], c[..., 1])
        angle = np.arctan2(c[..., 1], c[..., 0])
        a, b = self.lobes
        if self.shape == "ground":
            return np.ones_like(r)
        if self.shape == "star":
            return 0.82 + 0.24 * np.cos(5 * angle + a) - r
        if self.shape == "blob":
            return 0.85 + 0.13 * np.cos(2 * angle + a) + 0.09 * np.cos(3 * angle + b) - r
        if self.shape == "tile":
            return 0.8 - (np.abs(c[..., 0]) ** 4 + np.abs(c[..., 1] * 1.15) ** 4) ** 0.25
        body = 0.62 - np.hypot(c[..., 0] / 1.35, c[..., 1])
        head = 0.36 - np.hypot(c[..., 0] - 0.85, c[..., 1] + 0.5)
        legs = [0.17 - np.hypot(c[..., 0] - x, (c[..., 1] - 0.62) / 2.2) for x in (-0.5, 0.45)]
        return np.maximum.reduce([body, head, *legs])

    def draw(self, points: Field, t: float) -> tuple[Field, Field, Field]:
        """Colour (H, W, 3), cover (H, W) 0..1 and texture points of every pixel."""
        c = self.to_texture(points, t).astype(np.float32)
        spot = c * (TEXTURE / 8 if self.shape == "ground" else TEXTURE / 4) + TEXTURE / 2
        colour = cv2.remap(
            self.texture,
            spot[..., 0],
            spot[..., 1],
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT,
        )
        depth = self.inside(c).astype(np.float32)
        if self.shape == "ground":
            return colour, depth, c
        pixels = self._pose(t)[1]
        shade = 0.62 + 0.38 * np.clip(depth * 3.2, 0, 1) + 0.1 * np.clip(-c[..., 1], -1, 1)
        return colour * shade[..., None], np.clip(depth * pixels + 0.5, 0, 1), c


def paint(rng: np.random.Generator, colours: Sequence[tuple[int, int, int]]) -> Field:
    """A smooth texture of several octaves between the given colours: (S, S, 3) float32."""
    height = np.zeros((TEXTURE, TEXTURE), np.float32)
    for octave in range(2, 8):
        cells = rng.random((2**octave, 2**octave)).astype(np.float32)
        height += cv2.resize(cells, (TEXTURE, TEXTURE), interpolation=cv2.INTER_CUBIC) / octave**1.6
    height = (height - height.min()) / (height.max() - height.min())
    stops = np.linspace(0, 1, len(colours))
    table = np.array(colours, np.float32)
    return np.stack([np.interp(height, stops, table[:, k]) for k in range(3)], -1).astype(
        np.float32
    )


GROUNDS = (
    ((52, 82, 60), (104, 134, 84), (168, 170, 122), (206, 200, 170)),
    ((58, 66, 88), (98, 112, 132), (150, 158, 160), (200, 196, 184)),
    ((92, 72, 58), (140, 116, 88), (182, 158, 122), (216, 202, 176)),
)
SKINS = (
    ((128, 24, 30), (226, 78, 52), (250, 176, 92)),
    ((22, 52, 130), (50, 122, 214), (160, 214, 246)),
    ((116, 84, 6), (238, 190, 40), (252, 238, 164)),
    ((82, 22, 104), (168, 72, 190), (236, 176, 236)),
)
SHAPES = ("animal", "star", "blob", "tile")
SCRIPTS: dict[str, tuple[Motion, ...]] = {
    "crossing": (
        Motion(((0.2, 0.55, 1.0, 0.0), (0.5, 0.5, 1.1, 0.3), (0.8, 0.56, 1.2, 0.1))),
        Motion(((0.8, 0.45, 1.0, 0.0), (0.5, 0.5, 0.9, -0.5), (0.2, 0.42, 0.85, -1.0))),
    ),
    "return": (Motion(((0.45, 0.5, 1.1, 0.0), (1.3, 0.45, 1.2, 0.6), (0.5, 0.55, 1.25, 0.2))),),
    "orbit": (
        Motion(((0.3, 0.6, 0.95, 0.0), (0.5, 0.35, 0.8, 0.4), (0.72, 0.6, 0.95, 0.8))),
        Motion(((0.72, 0.62, 0.9, 0.2), (0.5, 0.72, 1.1, -0.4), (0.25, 0.4, 0.9, -0.8))),
        Motion(((0.5, 0.25, 0.75, 0.0), (0.24, 0.3, 0.8, 0.5), (0.5, 0.72, 0.9, 1.0))),
    ),
}


def random_motion(rng: np.random.Generator) -> Motion:
    """A path through four places in and near the frame."""
    return Motion(
        tuple(
            (
                rng.uniform(0.15, 0.85),
                rng.uniform(0.25, 0.75),
                rng.uniform(0.7, 1.2),
                rng.uniform(-0.6, 0.6),
            )
            for _ in range(4)
        )
    )


def render_clip(
    seed: int,
    frames: int = FRAMES,
    size: tuple[int, int] = SIZE,
    objects: int = 2,
    motions: Sequence[Motion] | None = None,
    flow: bool = True,
) -> Clip:
    """Draw a clip; later objects lie in front.

    size: (H, W) px. objects: how many, on random paths unless `motions` gives them. flow:
    also compute the exact flow. The same arguments give the same bytes.
    """
    rng = np.random.default_rng(seed)
    paths = list(motions) if motions is not None else [random_motion(rng) for _ in range(objects)]
    pan = Motion(tuple((x, 0.5 + 0.03 * np.sin(9 * x), 4 + x, 0.05 * x) for x in (0.42, 0.55, 0.5)))
    layers = [Layer(rng, pan, size, GROUNDS[seed % len(GROUNDS)], "ground")]
    for n, path in enumerate(paths):
        pick = (seed + n) % len(SKINS)
        layers.append(Layer(rng, path, size, SKINS[pick], SHAPES[(seed + n) % len(SHAPES)]))
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float64) + 0.5
    points = np.stack((x, y), -1)
    times = [t / max(1, frames - 1) for t in range(frames)]
    drawn = [_compose(layers, points, t, rng) for t in times]
    pairs = range(frames - 1 if flow else 0)
    return Clip(
        [image for image, _, _ in drawn],
        [mask for _, mask, _ in drawn],
        [_flow(layers, drawn[t + 1], points, times[t]) for t in pairs],
        [_flow(layers, drawn[t], points, times[t + 1]) for t in pairs],
    )


Drawn = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], list[Field]]


def _compose(layers: Sequence[Layer], points: Field, t: float, rng: np.random.Generator) -> Drawn:
    """Image, mask and each layer's texture points, back to front."""
    height, width = points.shape[:2]
    image: Field = np.zeros((height, width, 3), np.float32)
    mask = np.zeros((height, width), np.uint8)
    places = []
    for number, layer in enumerate(layers):
        colour, cover, c = layer.draw(points, t)
        image = image * (1 - cover[..., None]) + colour * cover[..., None]
        if number:
            mask[cover > 0.5] = number
        places.append(c)
    light = 1 + 0.05 * np.sin(2 * np.pi * t)
    grain = rng.normal(0, 2.0, image.shape)
    return np.clip(image * light + grain, 0, 255).astype(np.uint8), mask, places


def _flow(layers: Sequence[Layer], drawn: Drawn, points: Field, other: float) -> Field:
    """(2, H, W) from the drawn frame to the same surface points at time `other`."""
    _, mask, places = drawn
    flow = np.zeros(points.shape, np.float32)
    for number, layer in enumerate(layers):
        seen = mask == number
        if seen.any():
            c = places[number][seen].astype(np.float64)
            flow[seen] = layer.to_frame(c, other) - points[seen]
    return np.ascontiguousarray(flow.transpose(2, 0, 1))


def videos(root: Path, split: str) -> Iterator[Video]:
    """The clips, drawn below `root` if they are not there yet; `split` only names the run."""
    return videos17(write_demo(root), SPLIT)


def write_demo(root: Path, frames: int = FRAMES) -> Path:
    """The demo in the DAVIS 2017 layout below `root`, drawn once; returns its folder.

    frames: of each clip; a root holds one length.
    """
    target = root / "demo" / f"v{VERSION}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=target.parent, suffix=".tmp"))
    try:
        for seed, (name, motions) in enumerate(SCRIPTS.items()):
            _write_clip(draft, name, render_clip(seed, frames, motions=motions, flow=False))
        lists = draft / "ImageSets" / "2017"
        lists.mkdir(parents=True)
        (lists / f"{SPLIT}.txt").write_text("\n".join(SCRIPTS) + "\n")
        draft.chmod(0o755)
        if not target.is_dir():
            draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _write_clip(root: Path, name: str, clip: Clip) -> None:
    pictures, masks = (root / kind / "480p" / name for kind in ("JPEGImages", "Annotations"))
    pictures.mkdir(parents=True)
    masks.mkdir(parents=True)
    for j, (image, mask) in enumerate(zip(clip.frames, clip.masks, strict=True)):
        Pillow.fromarray(image).save(pictures / f"{j:05d}.jpg", quality=95)
        indexed = Pillow.fromarray(mask)
        indexed.putpalette(davis_palette())
        indexed.save(masks / f"{j:05d}.png")
