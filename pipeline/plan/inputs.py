"""From what a person asked for to a recipe: sources, weights and settings, all digested.

Digests of files are memoised, so that planning a run again reads no frame and no weight.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import models
from cache import keys
from cache.digests import FileDigests
from cache.files import read_record, write_record
from pipeline.datasets.reading import AS_IT_IS, Reading
from pipeline.errors import UserError, one_of
from pipeline.plan.machine import with_precision
from pipeline.plan.recipe import Recipe, VideoRecipe, read
from pipeline.plan.settings import RunSettings, luigi_config
from pipeline.plan.variants import VARIANTS
from stages.frames import DEEP, Film, Layers, bits_held, deep, frame_files, mask_files

if TYPE_CHECKING:
    from pipeline.datasets import Video
    from stages.frames import MaskSource


Digest = Callable[[Path], str]
"""digest of a file's bytes"""


@dataclass(frozen=True)
class Options:
    """What a person asked for (the options of commands/options.py)."""

    dataset: str = "demo"
    root: str | None = None
    split: str = "val"
    masks: str | None = None
    """of one clip: its first mask, or a folder of masks named after frames"""
    videos: tuple[str, ...] = ()
    """by name; empty: all of the split"""
    weights: str = "compact"
    """a shipped model, a file, or a folder of `<video>.safetensors`"""
    device: str = "auto"
    settings: RunSettings = field(default_factory=RunSettings)
    reading: Reading = AS_IT_IS


def cache_root() -> Path:
    """The artifact root: DYENET_CACHE, else [cache] root in luigi.cfg, else ./artifacts."""
    found = os.environ.get("DYENET_CACHE") or luigi_config().get("cache", "root", "artifacts")
    return Path(found).expanduser().absolute()


def open_videos(options: Options) -> Sequence[Video]:
    """The videos asked for; UserError names one that the split lacks."""
    from pipeline.datasets import open_dataset

    dataset = open_dataset(
        options.dataset, options.root, options.split, cache_root(), options.masks, options.reading
    )
    found = {video.name: video for video in dataset.videos}
    unknown = [name for name in options.videos if name not in found]
    if unknown:
        raise UserError(
            f"--videos {unknown[0]}: split {options.split} of {options.dataset} has no such video; "
            f"{one_of(unknown[0], found)}"
        )
    return [found[name] for name in options.videos or found]


def open_video(root: Path, run_digest: str, video: str) -> Video:
    """Where the files of a recipe's video are."""
    return _opened(root, run_digest)[video]


@lru_cache(maxsize=4)
def _opened(root: Path, run_digest: str) -> dict[str, Video]:
    """The videos of a recipe by name. Kept, since a dataset is listed as a whole."""
    made = read(root, run_digest)
    names = tuple(made.videos)
    asked = Options(made.dataset, made.root, made.split, made.masks, names, reading=made.reading)
    return {video.name: video for video in open_videos(asked)}


def plan_run(options: Options, root: Path) -> Recipe:
    """The recipe of a run. One of MENDABLE for whatever is wrong with what was asked for."""
    options = replace(options, settings=with_precision(options.settings, options.device))
    videos = open_videos(options)
    with FileDigests(root) as digests:
        made = {video.name: _video(video, options, digests, root) for video in videos}
    return Recipe(
        options.dataset,
        options.root and str(Path(options.root).absolute()),
        options.split,
        options.masks and str(Path(options.masks).absolute()),
        options.device,
        options.settings,
        made,
        options.reading,
    )


def _video(video: Video, options: Options, digests: FileDigests, root: Path) -> VideoRecipe:
    """Digests of all that a video is made from."""

    def digest(path: Path) -> str:
        return source_digest(digests, path, video.name)

    truth = video.annotations
    weights = find_weights(options.weights, video.name)
    modules = module_digests(weights, digests, root)
    _check_modules(weights, modules, options.settings.run.variant)
    bits = image_bits(video, digest, root)
    return VideoRecipe(
        images=images_digest(video, digest, bits),
        first_masks=masks_digest(video.first_masks, digest),
        annotations=masks_digest(truth, digest) if truth else None,
        weights=str(weights),
        modules=modules,
        bits=bits,
    )


def source_digest(digests: FileDigests, path: Path, video: str) -> str:
    """Digest of a source file; UserError if it cannot be read."""
    try:
        return digests.digest(path)
    except OSError as error:
        raise UserError(
            f"video {video}: {path} cannot be read ({error.strerror}); restore the file, or leave "
            "the video out with --videos"
        ) from error


def images_digest(video: Video, digest: Digest, bits: int = DEEP) -> str:
    """Digest of the names and bytes of a video's frames, and of how they are read.

    bits: of 16 a channel, that images of this depth use.
    """
    files = [digest(path) for path in frame_files(video.frames)]
    content: dict[str, Any] = {"names": list(video.frame_names), "files": files}
    if isinstance(video.frames, Film):
        film = video.frames
        content["taken"] = [film.first, film.last, film.step]
    return keys.key(content | ({"bits": bits} if bits != DEEP else {}))


def image_bits(video: Video, digest: Digest, root: Path) -> int:
    """Bits a channel that a video's images hold where they have 16; kept by their digest."""
    if not isinstance(video.frames, tuple) or not video.frames or not deep(video.frames[0]):
        return DEEP
    memo = root / "digests" / "bits" / f"{images_digest(video, digest)}.json"
    if known := read_record(memo):
        return int(known["bits"])
    found = bits_held(video.frames)
    # In a cache that cannot be written to they are looked at again.
    with suppress(OSError):
        write_record(memo, {"bits": found})
    return found


def masks_digest(masks: Mapping[int, MaskSource], digest: Digest) -> str:
    """Digest of masks by frame."""
    return keys.key({str(j): mask_digest(mask, digest) for j, mask in masks.items()})


def mask_digest(mask: MaskSource, digest: Digest) -> str:
    """Digest of the files of a mask."""
    found = [digest(path) for path in mask_files(mask)]
    if isinstance(mask, Path):
        return found[0]
    form = {} if isinstance(mask, Layers) else {"form": mask.content}
    return keys.key({"layers": found, **form})


def sources(made: Recipe) -> dict[Path, str]:
    """What a run reads, each with what it is: files, and folders that are read as a whole."""
    found = {Path(video.weights): "the weights" for video in made.videos.values()}
    if made.dataset == "clip":
        return found | {Path(made.root or ""): "the clip", Path(made.masks or ""): "its masks"}
    names = tuple(made.videos)
    asked = Options(made.dataset, made.root, made.split, made.masks, names, reading=made.reading)
    for video in open_videos(asked):
        files = frame_files(video.frames)
        pictures = isinstance(video.frames, tuple)
        frames = {path.parent for path in files} if pictures else set(files)
        found |= dict.fromkeys(frames, f"the frames of video {video.name}")
        for masks, what in ((video.first_masks, "masks"), (video.annotations or {}, "annotations")):
            folders = {path.parent for mask in masks.values() for path in mask_files(mask)}
            found |= dict.fromkeys(folders, f"the {what} of video {video.name}")
    return found


def find_weights(asked: str, video: str) -> Path:
    """The weights file of a video: shipped under a name, the file, or its own in a folder."""
    shipped = Path(models.__file__).parent / "pretrained" / f"{asked}.safetensors"
    path = shipped if shipped.is_file() else Path(asked).absolute()
    if path.is_dir():
        path = path / f"{video}.safetensors"
    if not path.is_file():
        raise UserError(
            f"--weights {asked}: no such file as {path}; give a .safetensors file, a folder of "
            "<video>.safetensors, or compact"
        )
    return path


def module_digests(path: Path, digests: FileDigests, root: Path) -> Mapping[str, str]:
    """Digest of each module of a weights file, kept by the digest of the file; BadWeights."""
    memo = root / "digests" / "weights" / f"{source_digest(digests, path, 'any')}.json"
    if known := read_record(memo):
        return known
    from models.weights import module_digests as compute

    found = compute(path)
    # In a cache that cannot be written to they are computed again.
    with suppress(OSError):
        write_record(memo, found)
    return found


class LacksModules(UserError):
    """A weights file without a module that the variant runs."""


def _check_modules(path: Path, modules: Mapping[str, str], variant: str) -> None:
    missing = [name for name in VARIANTS[variant].modules if name not in modules]
    if missing:
        raise LacksModules(
            f"weights {path}: holds no {', '.join(missing)}, which variant {variant} needs "
            f"(it holds {', '.join(sorted(modules))})"
        )
