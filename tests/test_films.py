"""Films of every kind: right by value, and nothing but the file itself is opened."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest

from pipeline.results.overlays import VideoFile
from stages.errors import BadInput
from stages.frames import Film, extent, manifest, open_frames
from tests.films import turn, write_film

SIZE = 64, 96
COLOURS = (200, 60, 40), (40, 200, 60), (60, 40, 200), (220, 220, 30), (90, 90, 90), (250, 250, 250)
EXACT = {"crf": "1"}
AV1 = {"crf": "1", "preset": "6"}


def picture(j: int) -> np.ndarray:
    """Six squares, each of one colour; frame j begins with colour j."""
    image = np.zeros((*SIZE, 3), np.uint8)
    for n in range(6):
        row, column = 32 * (n // 3), 32 * (n % 3)
        image[row : row + 32, column : column + 32] = COLOURS[(n + j) % 6]
    return image


def middles(image: np.ndarray) -> np.ndarray:
    """(2, 3, 3) the colours in the squares' middles."""
    return image[16::32, 16::32].astype(int)


KINDS = {
    "h264.mp4": ("libx264", "yuv420p", "ITU601", EXACT),
    "h264 of HD.mp4": ("libx264", "yuv420p", "ITU709", EXACT),
    "h264 10 bit.mp4": ("libx264", "yuv420p10le", "ITU709", EXACT),
    "h264 4:4:4.mkv": ("libx264", "yuv444p", "ITU601", EXACT),
    "hevc 10 bit.mp4": ("libx265", "yuv420p10le", "ITU709", {"x265-params": "log-level=0:crf=1"}),
    "vp9.webm": ("libvpx-vp9", "yuv420p", "ITU601", {"crf": "4", "b": "0", "cpu-used": "8"}),
    "av1.mp4": ("libsvtav1", "yuv420p", "ITU601", AV1),
    "av1.webm": ("libsvtav1", "yuv420p", "ITU709", AV1),
    "av1 10 bit.mp4": ("libsvtav1", "yuv420p10le", "ITU709", AV1),
    "prores.mov": ("prores_ks", "yuv422p10le", "ITU709", {}),
    "mpeg4.avi": ("mpeg4", "yuv420p", "ITU601", {"b": "9000000"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_is_right_by_value(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    codec, pixels, matrix, options = KINDS[kind]
    written = [picture(j) for j in range(7)]
    path = write_film(tmp_path / kind, written, codec, pixels, matrix, **options)
    capfd.readouterr()
    frames = open_frames(path, "v")
    assert (len(frames), frames.size, frames.fps) == (7, SIZE, 12)
    for image, wanted in zip(frames, written, strict=True):
        assert np.abs(middles(image) - middles(wanted)).max() <= 6
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_turned_film_is_read_as_it_is_shown(tmp_path: Path, degrees: int) -> None:
    film = turn(write_film(tmp_path / "a.mp4", [picture(0)] * 2, **EXACT), degrees)
    wanted = np.rot90(middles(picture(0)), -degrees // 90)
    for image in open_frames(film, "v"):
        assert np.abs(middles(image) - wanted).max() <= 6


def test_frames_at_uneven_times_are_all_read(tmp_path: Path) -> None:
    """Their rate is that of the whole film, so that what is drawn on them lasts as long."""
    film = write_film(
        tmp_path / "a.mp4", [picture(j) for j in range(6)], times=[0, 1, 2, 9, 10, 11], **EXACT
    )
    frames = open_frames(film, "v")
    assert (len(frames), frames.fps) == (6, 6)
    for j in (3, 5, 0, 4):
        assert np.abs(middles(frames[j]) - middles(picture(j))).max() <= 6


def test_the_headers_tell_how_many_frames_are_taken(tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mp4", [picture(j) for j in range(6)])
    assert extent(film, "v") == (6, SIZE)
    assert extent(Film(film, 1, step=2.0), "v") == (3, SIZE)


def test_frames_of_another_size_are_named(tmp_path: Path) -> None:
    parts = [
        write_film(tmp_path / f"{n}.h264", [np.zeros(size, np.uint8)] * 3)
        for n, size in enumerate([(64, 96, 3), (32, 48, 3)])
    ]
    film = tmp_path / "a.mp4"
    film.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(BadInput, match=r"frame 00003: .* has frames of 48x32 there, and of 96x64"):
        manifest(film, "v", str)


def test_a_codec_that_nothing_decodes_is_named(tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mp4", [np.zeros((48, 64, 3), np.uint8)] * 3)
    data = film.read_bytes()
    at = data.index(b"avc1", data.index(b"stsd"))
    film.write_bytes(data[:at] + b"zzzz" + data[at + 4 :])
    with pytest.raises(BadInput, match=r"a\.mp4"):
        manifest(film, "v", str)


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile {target}\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
    '<AdaptationSet mimeType="video/mp4"><Representation id="1"><BaseURL>{target}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("place", ["network", "file"])
def test_nothing_but_the_file_is_opened(tmp_path: Path, kind: str, place: str) -> None:
    """Its frames would not be those of the file's digest, and an address would be asked."""
    write_film(tmp_path / "other.mp4", [picture(0)])
    film = tmp_path / "film.mp4"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.mp4"
        film.write_text(
            PLAYLISTS[kind].format(target=address if place == "network" else "other.mp4")
        )
        with pytest.raises(BadInput, match="cannot be opened as a video file"):
            open_frames(film, "v")
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize("name", ["concat:other.mp4", "100%d.mp4", "a b é.mp4", "subfile,,x.mp4"])
def test_a_name_is_no_address(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_film(tmp_path / "other.mp4", [picture(0)]).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(open_frames(Path(name), "v")) == 1


@pytest.mark.parametrize("fps", [None, 30000 / 1001, 0.2, 240.0])
def test_a_film_that_is_written_has_its_frames_and_rate(tmp_path: Path, fps: float | None) -> None:
    film = VideoFile(tmp_path / "a.mp4", SIZE, fps)
    for j in range(5):
        film.write(picture(j))
    film.finish()
    frames = open_frames(tmp_path / "a.mp4", "v")
    assert len(frames) == 5 and frames.fps == pytest.approx(fps or 24, rel=1e-4)
    for j, image in enumerate(frames):
        assert np.abs(middles(image) - middles(picture(j))).max() <= 12
