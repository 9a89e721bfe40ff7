"""What a person gives may change, be damaged or absurd: one line, or masks that are right."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save

from cache.digests import FileDigests
from cache.files import UnfitValues
from cache.store import Store
from models.config import Architecture
from models.weights import CARD, BadWeights, load_modules, module_digests
from pipeline import RunDataset
from pipeline.commands import engine
from pipeline.datasets import open_dataset
from pipeline.errors import UserError
from pipeline.plan import recipe as recipes
from pipeline.plan.inputs import Options, plan_run
from pipeline.plan.inputs import module_digests as known_digests
from pipeline.plan.recipe import Recipe
from pipeline.plan.settings import RunSettings, override
from pipeline.results.overlays import VideoFile, picture
from pipeline.run.job import load as load_networks
from pipeline.run.video import VideoFiles
from stages.frames import BadInput, manifest, open_frames, read_index_mask
from tests.clip import SIZE, draw
from tests.test_cache_faults import flip, mounted
from tests.tiny_run import ran, write_dataset, write_mask, write_weights

FILMS = Path(__file__).parent / "data" / "films"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


def line_of(error: BaseException) -> str:
    assert "\n" not in str(error)
    return str(error)


# --- what is decoded is what was digested ---------------------------------------


@pytest.fixture
def planned(tmp_path: Path, weights: Path) -> Recipe:
    write_dataset(tmp_path / "data", ("ant",))
    options = Options("davis17", str(tmp_path / "data"), weights=str(weights))
    made = plan_run(options, tmp_path / "cache")
    made.write(tmp_path / "cache")
    return made


def write_frame(path: Path) -> None:
    Image.fromarray(np.full((*SIZE, 3), 77, np.uint8)).save(path)


def write_other_mask(path: Path) -> None:
    write_mask(path, np.where(draw(0)[1] == 1, 2, 0).astype(np.uint8))


CHANGES: dict[str, tuple[str, Callable[[Path], None], Callable[[VideoFiles], Any]]] = {
    "frame": ("JPEGImages/480p/ant/00002.jpg", write_frame, lambda files: files.frames()[2]),
    "mask": (
        "Annotations/480p/ant/00000.png",
        write_other_mask,
        lambda files: files.first_masks(SIZE),
    ),
    "annotation": (
        "Annotations/480p/ant/00003.png",
        write_other_mask,
        lambda files: files.annotations(SIZE)(3),
    ),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_file_changed_after_planning_is_refused(
    kind: str, planned: Recipe, tmp_path: Path
) -> None:
    name, change, look = CHANGES[kind]
    place = tmp_path / "data" / name
    look(VideoFiles(tmp_path / "cache", planned.digest, "ant"))
    change(place)
    with pytest.raises(UserError, match=r"video ant: its .* changed since .* run again") as caught:
        look(VideoFiles(tmp_path / "cache", planned.digest, "ant"))
    line_of(caught.value)


def test_a_frame_that_changes_while_it_is_read_is_refused(planned: Recipe, tmp_path: Path) -> None:
    """Its old content back afterwards changes nothing: what was decoded counts."""
    path = tmp_path / "data" / CHANGES["frame"][0]
    frames = VideoFiles(tmp_path / "cache", planned.digest, "ant").frames()
    before = frames[2]
    good = path.read_bytes()
    write_frame(path)
    with pytest.raises(UserError, match=rf"video ant: {path} changed since"):
        frames[2]
    path.write_bytes(good)
    np.testing.assert_array_equal(frames[2], before)


def test_a_mask_that_changes_while_it_is_read_is_refused(planned: Recipe, tmp_path: Path) -> None:
    files = VideoFiles(tmp_path / "cache", planned.digest, "ant")
    truths = files.annotations(SIZE)
    truths(3)
    write_other_mask(tmp_path / "data" / CHANGES["annotation"][0])
    with pytest.raises(UserError, match=r"00003\.png changed since"):
        truths(3)


def test_a_video_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, weights: Path
) -> None:
    clip, mask = tmp_path / "clip.mkv", tmp_path / "mask.png"
    clip.write_bytes((FILMS / "live.mkv").read_bytes())
    write_mask(mask, np.eye(48, 64, dtype=np.uint8))
    options = Options("clip", str(clip), masks=str(mask), weights=str(weights))
    made = plan_run(options, tmp_path / "cache")
    made.write(tmp_path / "cache")
    frames = VideoFiles(tmp_path / "cache", made.digest, "clip").frames()
    frames[3]
    clip.write_bytes((FILMS / "sound.mkv").read_bytes())
    with pytest.raises(UserError, match=rf"video clip: {clip} changed since"):
        frames[5]


def test_weights_changed_after_planning_are_refused(tmp_path: Path, weights: Path) -> None:
    planned = module_digests(weights)
    load_modules(weights, ["trunk"], planned)
    other = write_weights(tmp_path / "other.safetensors", remp=1)
    load_modules(other, ["trunk"], planned)
    with pytest.raises(BadWeights, match="changed since the run was planned"):
        load_networks(other, tuple(sorted(planned.items())), "cpu", "fp32")


# --- names and kinds of files ----------------------------------------------------


def test_two_frames_of_one_name_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg", "a.png"):
        write_frame(folder / name)
    write_mask(tmp_path / "m.png", draw(0)[1])
    with pytest.raises(UserError, match=r"a\.jpg and a\.png: both are called a") as caught:
        open_dataset("clip", folder, "clip", masks=tmp_path / "m.png")
    line_of(caught.value)


def test_a_folder_beside_a_film_of_its_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_frame(tmp_path / "a" / "0.png")
    (tmp_path / "a.mp4").write_bytes((FILMS / "variable.mp4").read_bytes())
    with pytest.raises(UserError, match=r"a and a\.mp4: both are called a"):
        open_dataset("folder", tmp_path, "all")


@pytest.mark.parametrize("name", ["clip/b.png", "mask.png", "film.mp4"])
def test_only_regular_files_are_read(name: str, tmp_path: Path, weights: Path) -> None:
    (tmp_path / "clip").mkdir()
    write_frame(tmp_path / "clip" / "a.png")
    write_mask(tmp_path / "mask.png", draw(0)[1])
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    clip = tmp_path / ("film.mp4" if name == "film.mp4" else "clip")
    options = Options("clip", str(clip), masks=str(tmp_path / "mask.png"), weights=str(weights))
    with pytest.raises(UserError, match=rf"{name}.* no regular file") as caught:
        plan_run(options, tmp_path / "cache")
    line_of(caught.value)
    with pytest.raises(BadInput, match="no regular file"):
        if name == "mask.png":
            read_index_mask(tmp_path / name, SIZE, "v", "0")
        else:
            list(open_frames(clip if clip.suffix else (tmp_path / name,), "v"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_unreadable_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    os.seteuid(65534)
    try:
        with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)") as caught:
            open_dataset("folder", tmp_path / "data", "all")
        with pytest.raises(UserError, match="Permission denied"):
            open_dataset("clip", tmp_path / "data", "clip", masks=tmp_path / "data")
    finally:
        os.seteuid(0)
    line_of(caught.value)


# --- damaged pictures and films --------------------------------------------------


def jpeg(progressive: bool = False, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    grain = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    image = Image.fromarray(cv2.resize(grain, (320, 240))).convert(mode)
    image.save(out, "JPEG", quality=90, progressive=progressive)
    return out.getvalue()


@pytest.mark.parametrize("progressive", [False, True])
def test_a_damaged_jpeg_is_refused(progressive: bool, tmp_path: Path) -> None:
    good, rng = jpeg(progressive), np.random.default_rng(1)
    for n in range(20):
        place = int(rng.integers(1000, len(good) - 400))
        noise = rng.integers(0, 256, 300, dtype=np.uint8).tobytes()
        paths = tmp_path / f"{n}a.jpg", tmp_path / f"{n}b.jpg", tmp_path / f"{n}c.jpg"
        paths[0].write_bytes(good)
        paths[1].write_bytes(good[:place] + noise + good[place + 300 :])
        paths[2].write_bytes(good[:place])
        for bad in paths[1:]:
            with pytest.raises(BadInput, match=rf"video v, frame {bad.stem}: {bad}") as caught:
                manifest((paths[0], bad), "v", str)
            line_of(caught.value)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_whole_jpeg_of_any_kind_is_read(mode: str, tmp_path: Path) -> None:
    """Also one with more behind its end, as phones write them."""
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(mode=mode) + b"more" * 100)
    manifest((path,), "v", str)
    np.testing.assert_array_equal(open_frames((path,), "v")[0], cv2.imread(str(path))[..., ::-1])


def test_a_flipped_bit_in_a_mask_is_refused(tmp_path: Path) -> None:
    path, rng = tmp_path / "m.png", np.random.default_rng(0)
    write_mask(path, draw(0)[1])
    good = path.read_bytes()
    start = good.index(b"IDAT") + 4
    for bit in rng.integers(8 * start, 8 * (len(good) - 16), 100):
        flip(path, good, int(bit))
        with pytest.raises(BadInput):
            read_index_mask(path, SIZE, "v", "0")


@pytest.mark.parametrize("film", sorted(FILMS.iterdir()), ids=lambda path: path.name)
def test_a_film_whose_container_gives_no_exact_count_is_read(film: Path) -> None:
    """Frames left out, a trimmed start, sound that lasts longer, no length at all."""
    counts = {"trimmed": 12, "variable": 15, "picture": 5}
    found = manifest(film, "v", str)
    assert len(found.names) == counts.get(film.stem, 25)
    assert found.size == (48, 64)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Thirty frames in every container that OpenCV writes."""
    folder = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8), (320, 240))
    kinds = {"mp4": "mp4v", "mov": "mp4v", "avi": "MJPG", "mkv": "XVID", "webm": "VP80"}
    for ending, codec in kinds.items():
        code = cv2.VideoWriter.fourcc(*codec)
        out = cv2.VideoWriter(str(folder / f"film.{ending}"), code, 12, (320, 240))
        for j in range(30):
            out.write(np.roll(image, 3 * j, 1))
        out.release()
    pictures = [Image.fromarray(np.roll(image, 9 * j, 1)) for j in range(3)]
    rest = {"save_all": True, "append_images": pictures[1:]}
    pictures[0].save(folder / "film.gif", duration=100, **rest)
    pictures[0].save(folder / "still.gif", **rest)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("ending", ["mp4", "mov", "avi", "mkv", "webm", "gif"])
def test_a_whole_film_is_read_and_half_of_it_refused(
    ending: str, films: dict[str, bytes], tmp_path: Path
) -> None:
    path = tmp_path / f"film.{ending}"
    path.write_bytes(films[f"film.{ending}"])
    assert len(manifest(path, "v", str).names) == (3 if ending == "gif" else 30)
    path.write_bytes(films[f"film.{ending}"][: int(0.6 * len(films[f"film.{ending}"]))])
    with pytest.raises(BadInput, match=rf"video v: {path}") as caught:
        manifest(path, "v", str)
    line_of(caught.value)


@pytest.mark.parametrize("ending", ["mp4", "mov", "avi", "mkv", "webm"])
def test_an_overwritten_film_is_refused(
    ending: str, films: dict[str, bytes], tmp_path: Path
) -> None:
    path, data = tmp_path / f"film.{ending}", bytearray(films[f"film.{ending}"])
    middle = len(data) // 2
    data[middle : middle + 20_000] = np.random.default_rng(1).bytes(20_000)
    path.write_bytes(data)
    with pytest.raises(BadInput, match=r"damaged or cut short: \d+ of 30 frames can be decoded"):
        manifest(path, "v", str)


def test_a_film_of_which_the_decoder_drops_frames_is_refused(
    films: dict[str, bytes], tmp_path: Path
) -> None:
    """A GIF that shows its pictures for no time at all."""
    path = tmp_path / "still.gif"
    path.write_bytes(films["still.gif"])
    with pytest.raises(BadInput, match="1 of 3 frames can be decoded"):
        manifest(path, "v", str)


# --- sizes -----------------------------------------------------------------------


def huge_png(side: int) -> bytes:
    """A PNG whose header promises `side` x `side` px."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("side", [30_000, 60_000])
def test_an_enormous_picture_is_refused_by_its_header(side: int, tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    path.write_bytes(huge_png(side))
    for call in (
        lambda: open_frames((path,), "v"),
        lambda: read_index_mask(path, (side, side), "v", "m"),
    ):
        with pytest.raises(BadInput, match=rf"{side}x{side}, more than 100 million") as caught:
            call()
        assert "raise frames.megapixels" in line_of(caught.value)


def test_a_frame_may_be_as_large_as_the_setting_says(tmp_path: Path, weights: Path) -> None:
    path = tmp_path / "clip.png"
    Image.new("RGB", (1100, 1000)).save(path)
    write_mask(tmp_path / "m.png", np.ones((1000, 1100), np.uint8))
    for most in ("1", "2"):
        options = Options(
            "clip",
            str(path),
            masks=str(tmp_path / "m.png"),
            weights=str(weights),
            settings=override(RunSettings(), {"frames.megapixels": most}),
        )
        made = plan_run(options, tmp_path / "cache")
        made.write(tmp_path / "cache")
        files = VideoFiles(tmp_path / "cache", made.digest, "clip")
        if most == "1":
            with pytest.raises(BadInput, match="more than 1 million pixels"):
                files.frames()
        else:
            assert files.frames().size == (1000, 1100)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 200)])
def test_masks_of_slender_frames_come_out(
    size: tuple[int, int],
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "clip").mkdir()
    rng = np.random.default_rng(0)
    for j in range(3):
        image = Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8))
        image.save(tmp_path / "clip" / f"{j}.png")
    write_mask(tmp_path / "m.png", np.ones(size, np.uint8))
    monkeypatch.setenv("DYENET_CACHE", str(tmp_path / "cache"))
    task = RunDataset(
        dataset="clip",
        root=str(tmp_path / "clip"),
        masks=str(tmp_path / "m.png"),
        weights=str(weights),
        set=["frames.height=16"],
        output=str(tmp_path / "out"),
    )
    assert engine.build(task), capsys.readouterr().out
    masks = sorted((tmp_path / "out" / "masks" / "clip").glob("*.png"))
    assert [np.array(Image.open(path)).shape for path in masks] == [size] * 3
    capture = cv2.VideoCapture(str(tmp_path / "out" / "overlays" / "clip.mp4"))
    assert sum(capture.grab() for _ in range(9)) == 3


def test_a_film_and_a_picture_of_slender_frames_stay_small(tmp_path: Path) -> None:
    image = np.zeros((20_000, 1, 3), np.uint8)
    film = VideoFile(tmp_path / "a.mp4", image.shape[:2], None)
    film.write(image)
    film.finish()
    capture = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_HEIGHT) == 8000
    assert picture(image, image[..., 0], 240).shape == (8000, 240, 3)


@pytest.mark.parametrize(
    "given",
    ["frames.height=99999", "tubes.edges=1e308", "matches.evidence=1e308", "matches.templates=1e9"],
)
def test_absurd_settings_are_refused(given: str) -> None:
    name, value = given.split("=")
    with pytest.raises(UserError, match=rf"{name} = .*must be"):
        override(RunSettings(), {name: value})


# --- weights ---------------------------------------------------------------------


def rewritten(weights: Path, path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of a weights file with another card."""
    card = json.loads(_metadata(weights))
    text = change(card)
    path.write_bytes(save(load(weights.read_bytes()), {CARD: text}))
    return path


def _metadata(weights: Path) -> str:
    data = weights.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return str(json.loads(data[8 : 8 + length])["__metadata__"][CARD])


def without(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda card: json.dumps({k: v for k, v in card.items() if k != name})


def sized(**values: Any) -> Callable[[dict[str, Any]], str]:
    return lambda card: json.dumps({**card, "architecture": {**card["architecture"], **values}})


CARDS: dict[str, tuple[Callable[[dict[str, Any]], str], str]] = {
    "no JSON": (lambda card: "{", "its card is no JSON"),
    "a list": (lambda card: "[1]", "names no architecture"),
    "no architecture": (without("architecture"), "names no architecture"),
    "no modules": (without("modules"), "lists the modules None"),
    "modules of numbers": (lambda c: json.dumps({**c, "modules": [1]}), "lists the modules"),
    "too few modules": (
        lambda c: json.dumps({**c, "modules": ["trunk"]}),
        "holds mask, .* which its card does not list",
    ),
    "blocks": (sized(blocks=1000000), "blocks = 1000000"),
    "embedding": (sized(embedding=1000000), "embedding = 1000000"),
    "wide": (sized(planes=8192, blocks=64, hidden=8192), "does not fit its architecture"),
    "text": (sized(planes="many"), "made for another architecture"),
    "anchors": (sized(anchors=[32] * 99), "anchors"),
}


@pytest.mark.parametrize("kind", CARDS)
def test_a_card_that_cannot_be_is_one_line(kind: str, weights: Path, tmp_path: Path) -> None:
    change, message = CARDS[kind]
    path = rewritten(weights, tmp_path / "w.safetensors", change)
    with pytest.raises(BadWeights, match=message) as caught:
        module_digests(path)
        load_modules(path)
    assert str(path) in line_of(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(
    value: float, weights: Path, tmp_path: Path
) -> None:
    tensors = load(weights.read_bytes())
    name = next(key for key in tensors if key.startswith("remp.") and tensors[key].dim() == 4)
    tensors[name].view(-1)[-1] = value
    path = tmp_path / "w.safetensors"
    path.write_bytes(save(tensors, {CARD: _metadata(weights)}))
    for call in (module_digests, load_modules):
        with pytest.raises(BadWeights, match=rf"tensor {name} holds NaN or infinite"):
            call(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_artifacts_that_are_not_finite_are_not_kept(value: float, tmp_path: Path) -> None:
    row = np.zeros((8, 4, 5), np.float16)
    row[3, 2, 1] = value
    store = Store(tmp_path)
    with (
        pytest.raises(UnfitValues, match=r"coarse .* NaN or infinite") as caught,
        store.write("features", "demo", "bear", {}) as out,
    ):
        out.append("coarse", row)
    line_of(caught.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_all_known_architectures_are_within_their_bounds() -> None:
    for made in (Architecture.paper(), Architecture.compact(), Architecture.base()):
        assert replace(made) == made


# --- the cache's own books -------------------------------------------------------


def test_damaged_books_are_written_anew(weights: Path, tmp_path: Path) -> None:
    """One flipped bit anywhere in a recipe, or in the digests of weights and of sources."""
    root = tmp_path / "cache"
    data = write_dataset(tmp_path / "data", ("ant",))
    for path in data.rglob("*.*"):
        os.utime(path, (1, 1))
    options = Options("davis17", str(data), weights=str(weights))

    def plan() -> Recipe:
        recipes.read.cache_clear()
        made = plan_run(options, root)
        made.write(root)
        assert recipes.read(root, made.digest) == made
        return made

    made, rng = plan(), np.random.default_rng(0)
    books = [root / "recipes" / f"{made.digest}.json", *(root / "digests").rglob("*.json")]
    assert len(books) >= 2
    for book in books:
        good = book.read_bytes()
        for bit in rng.integers(0, 8 * len(good), 40):
            flip(book, good, int(bit))
            assert plan() == made
            assert json.loads(book.read_bytes())
        assert Path(f"{book}.bad").exists()


def test_a_cache_that_cannot_be_written_to_still_plans(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "root").touch()
    with FileDigests(tmp_path / "root") as digests:
        found = known_digests(weights, digests, tmp_path / "root")
    assert found == module_digests(weights)


def test_a_complete_read_only_cache_serves(
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_dataset(tmp_path / "data", ("ant",))
    disks = mounted(tmp_path / "disk", "size=90m")
    root = next(disks)
    monkeypatch.setenv("DYENET_CACHE", str(root / "cache"))

    def build(output: str, **changed: str) -> bool:
        recipes.read.cache_clear()
        return engine.build(
            RunDataset(
                dataset="davis17",
                root=str(data),
                weights=str(weights),
                max_iterations="1",
                output=str(tmp_path / output),
                **changed,
            )
        )

    try:
        assert build("one"), capsys.readouterr().out
        subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
        capsys.readouterr()
        assert build("one")
        assert ran(capsys.readouterr().out) == {}
        assert build("two"), capsys.readouterr().out
        assert ran(capsys.readouterr().out) == {"ant": ["export"], "": ["report"]}
        with pytest.raises(Exception, match="Read-only file system"):
            build("three", rho_reid="0.5")
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(root)], check=True)
        next(disks, None)
    for path in (tmp_path / "one" / "masks").rglob("*.png"):
        other = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert path.read_bytes() == other.read_bytes()


def test_no_file_is_unpickled(tmp_path: Path) -> None:
    """A pickle in place of weights runs nothing."""
    path = tmp_path / "w.safetensors"
    torch.save({"architecture": {}}, path)
    with pytest.raises(BadWeights):
        load_modules(path)
