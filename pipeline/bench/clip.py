"""What `dyenet bench` runs on: a drawn clip, and networks that nobody has trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision.models.resnet import Bottleneck

from models.config import Architecture
from models.remp import ReMP
from models.weights import build, save
from pipeline.datasets.demo import Clip, Motion, render_clip
from pipeline.datasets.layout import images
from pipeline.datasets.palette import davis_palette
from pipeline.errors import UserError
from pipeline.plan.variants import FULL, VARIANTS

SIZE = (480, 854)
ENLARGED = 2
"""the clip is drawn at this fraction of SIZE: drawing takes as long as segmenting"""
ACROSS = 5
"""objects in a row"""
RESIDUAL = 0.2
"""share of a bottleneck in what follows it, so that 33 untrained ones do not overflow float16"""
FOREGROUND = 4.0
"""logit of every cell of a mask that an untrained network draws"""


def motions(objects: int) -> list[Motion]:
    """Every object goes from its place in a grid to the next one's, and back."""
    down = -(-objects // ACROSS)
    across = min(objects, ACROSS)
    places = [((n % across + 0.5) / across, (n // across + 0.5) / down) for n in range(objects)]
    scale = 1 / (down + 0.5)
    return [
        Motion(((*here, scale, 0.0), (*there, scale, 0.5), (*here, scale, 0.0)))
        for here, there in zip(places, [*places[1:], places[0]], strict=True)
    ]


def draw(objects: int, frames: int, size: tuple[int, int] = SIZE) -> Clip:
    """A clip of objects that cross, of size (H, W) px, without its flow."""
    small = size[0] // ENLARGED, size[1] // ENLARGED
    clip = render_clip(0, frames, small, motions=motions(objects), flow=False)
    return Clip(
        [cv2.resize(image, size[::-1], interpolation=cv2.INTER_CUBIC) for image in clip.frames],
        [cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST) for mask in clip.masks],
        [],
        [],
    )


def write_clip(folder: Path, first: Path, objects: int, frames: int) -> None:
    """Draw a clip: a folder of images, and its first mask."""
    clip = draw(objects, frames)
    folder.mkdir()
    for j, image in enumerate(clip.frames):
        Image.fromarray(image).save(folder / f"{j:05d}.jpg", quality=95)
    write_mask(first, clip.masks[0])


def write_mask(path: Path, mask: np.ndarray) -> None:
    """An index mask as a palette PNG."""
    indexed = Image.fromarray(mask)
    indexed.putpalette(davis_palette())
    indexed.save(path)


def fewer_objects(source: Path, target: Path, count: int) -> None:
    """A mask with the first `count` objects of another; UserError if that has not so many."""
    mask = np.array(Image.open(source))
    found = [i for i in np.unique(mask) if i not in (0, 255)]
    if len(found) < count:
        raise UserError(f"--objects {count}: mask {source} has {len(found)}; ask for no more")
    write_mask(target, np.where(np.isin(mask, found[:count]), mask, 0).astype(np.uint8))


def stretch(frames: Path, folder: Path, length: int) -> None:
    """A clip of `length` frames: those of a folder, forwards and backwards in turn."""
    found = images(frames)
    both_ways = [*found, *found[-2:0:-1]]
    folder.mkdir()
    for j in range(length):
        source = both_ways[j % len(both_ways)]
        (folder / f"{j:05d}{source.suffix}").symlink_to(source.absolute())


def write_untrained(path: Path, backbone: str) -> None:
    """The paper's networks on a backbone, untrained, except that Re-MP fills its box.

    So every object lives as long as its box can be found in the flow, and what is measured does not
    hang on the draw of the weights: one step a frame and object, and nothing to retrieve.
    """
    architecture = replace(Architecture.paper(), backbone=backbone, margin=0.0)
    torch.manual_seed(0)
    modules = {name: build(name, architecture) for name in VARIANTS[FULL].modules}
    for module in modules.values():
        _steady(module)
    save(path, architecture, modules, {}, torch.float16)


@torch.no_grad()
def _steady(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, Bottleneck):
            part.bn3.weight.fill_(RESIDUAL)
    if isinstance(module, ReMP):
        nn.init.zeros_(module.output.conv3.weight)
        module.output.conv3.get_parameter("bias").fill_(FOREGROUND)
