"""The pages in a real headless Chromium: no request, no error, sorting, phone, dark mode."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.pages.compare import compare_html
from pipeline.pages.run import report_html
from pipeline.pages.sweep import sweep_html
from pipeline.results.export import export_video
from pipeline.results.overlays import ENCODERS, VideoFile
from tests.test_ablation import Place
from tests.test_export import gather, result, truth
from tests.test_report import write_sweep

pytestmark = pytest.mark.browser

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PHONE = 390, 844
"""px"""
DESKTOP = 1280, 900
SORTED = ("run", "sweep", "compare")
PAGES = (*SORTED, "ablation", "clip", "video")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One page of each kind."""
    top = tmp_path_factory.mktemp("pages")
    values = {0.9: 3, 0.8: 2, 0.7: 1, 0.6: 2}
    write_sweep(top, values)
    a, b = top / "rho_reid=0.9", top / "rho_reid=0.7"
    place = Place(top / "place")
    place.luigi("Ablation", *place.flags(online_weights=""))
    return {
        "run": report_html(a),
        "sweep": sweep_html(top),
        "compare": compare_html(a, b),
        "ablation": place.out / "ablation.html",
        "clip": write_clip(top / "clip"),
        "video": write_video(top / "many"),
    }


def write_clip(out: Path) -> Path:
    """The report of one's own clip, of which an object is lost; it was made before, otherwise."""
    asked = {"command": "dyenet segment walk.mp4 first.png -o out", "masks": "/data/first.png"}
    for lost in (range(0), range(60, 80)):
        shown = [truth(j % 40, 1 if j in lost else 2) for j in range(100)]
        sure = np.linspace(1, 0.8, 200, dtype=np.float32).reshape(100, 2)
        video = result("walk", 100, masks=shown, scored=False, confidence=sure, asked=asked)
        video = replace(video, keys={"tubes(2)": f"{lost}"}, names={2: "cup"})
        export_video(video, out)
        gather(out, video, dataset="clip", split="clip")
    return report_html(out)


def write_video(out: Path) -> Path:
    """A video's own page."""
    for name in ("walk", "run"):
        export_video(result(name), out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.pages.run.EMBEDDED", 1)
        gather(out, result("walk"), result("run"))
    return out / "videos/walk.html"


@dataclass(frozen=True)
class Browser:
    """Chromium with what its pages asked for and said."""

    driver: Any

    def open(self, path: Path, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> None:
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        self.command(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=size[0],
            height=size[1],
            deviceScaleFactor=1,
            mobile=size == PHONE,
        )
        self.driver.get(path.as_uri())

    def command(self, name: str, **parameters: Any) -> Any:
        return self.driver.execute_cdp_cmd(name, parameters)

    def wait(self, text: str) -> None:
        """Until a script's value is true."""
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.driver, 10).until(lambda _: self.script(text))

    def script(self, text: str) -> Any:
        return self.driver.execute_script(text)

    def requests(self) -> list[str]:
        """Addresses asked for since the page was opened, without those inside it."""
        events = [
            json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")
        ]
        sent = [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]
        return [address for address in sent if not address.startswith("data:")]

    def shot(self, name: str) -> None:
        """Keep a picture of the whole page where DYENET_SHOTS says, if it does."""
        if "DYENET_SHOTS" in os.environ:
            made = self.command("Page.captureScreenshot", captureBeyondViewport=True)
            folder = Path(os.environ["DYENET_SHOTS"])
            (folder / f"{name}.png").write_bytes(base64.b64decode(made["data"]))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser; the test is skipped where there is none."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium and chromedriver here: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield Browser(started)
    started.quit()


@pytest.mark.parametrize("page", PAGES)
def test_page_asks_for_nothing_and_has_no_error(
    browser: Browser, pages: dict[str, Path], page: str
) -> None:
    browser.open(pages[page])
    browser.script("for (const image of document.images) image.loading = 'eager'")
    film = (pages[page].parent / "overlays/walk.mp4").as_uri()
    assert set(browser.requests()) == {pages[page].as_uri()} | ({film} if page == "clip" else set())
    assert browser.driver.get_log("browser") == []
    browser.wait("return [...document.images].every((image) => image.complete)")
    shown = browser.script("return [...document.images].map((image) => image.naturalWidth)")
    assert all(shown), "a picture does not show"
    browser.shot(f"{page}-desktop")


@pytest.mark.parametrize("page", PAGES)
def test_page_fits_a_phone(browser: Browser, pages: dict[str, Path], page: str) -> None:
    browser.open(pages[page], PHONE)
    width = browser.script("return document.documentElement.scrollWidth")
    assert width <= PHONE[0], f"the page is {width} px wide"
    small = browser.script(
        "return [...document.querySelectorAll('p, td, th, a, span, h1, h2, h3')]"
        ".filter((e) => parseFloat(getComputedStyle(e).fontSize) < 11).length"
    )
    assert small == 0
    browser.shot(f"{page}-phone")


@pytest.mark.parametrize("page", PAGES)
def test_page_is_dark_where_asked(browser: Browser, pages: dict[str, Path], page: str) -> None:
    seen = {}
    for scheme in ("light", "dark"):
        browser.open(pages[page], scheme=scheme)
        seen[scheme] = browser.script(
            "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
        )
    assert luminance(seen["light"][0]) > 0.8 > 0.2 > luminance(seen["light"][1])
    assert luminance(seen["dark"][1]) > 0.7 > 0.1 > luminance(seen["dark"][0])
    browser.shot(f"{page}-dark")


def luminance(colour: str) -> float:
    """Mean of `rgb(1, 2, 3)`, 0..1."""
    return float(np.mean([int(v) for v in colour.strip("rgb()").split(",")])) / 255


@pytest.mark.parametrize("page", SORTED)
def test_table_sorts_by_number_and_by_name(
    browser: Browser, pages: dict[str, Path], page: str
) -> None:
    browser.open(pages[page])
    names = (
        "return [...document.querySelectorAll('.sortable tbody tr')]"
        ".map((r) => r.cells[0].innerText)"
    )
    numbers = (
        "return [...document.querySelectorAll('.sortable tbody tr')]"
        ".map((r) => parseFloat(r.cells[1].innerText))"
    )
    heads = browser.driver.find_elements("css selector", ".sortable th button")
    heads[0].click()
    assert browser.script(names) == sorted(browser.script(names))
    heads[0].click()
    assert browser.script(names) == sorted(browser.script(names), reverse=True)
    heads[1].click()
    ascending = browser.script(numbers)
    assert ascending == sorted(ascending) and len(set(ascending)) > 1
    heads[1].click()
    assert browser.script(numbers) == ascending[::-1]
    assert browser.script("return document.querySelector('[aria-sort]').cellIndex") == 1


def test_a_click_shows_the_frame(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["clip"])
    browser.wait("return document.querySelector('.playable') !== null")
    shows = "return /^M({}) /.test(document.querySelector('.now').getAttribute('d'))"
    looks = browser.driver.find_elements("css selector", ".looks [data-frame]")
    assert len(looks) >= 3
    for look in looks:
        look.click()
        browser.wait(shows.format(look.get_attribute("data-frame")))
    browser.driver.find_element("css selector", ".seen svg").click()
    browser.wait(shows.format("49|50"))


def test_the_page_ends_where_its_content_ends(browser: Browser, pages: dict[str, Path]) -> None:
    for size in (PHONE, DESKTOP):
        browser.open(pages["clip"], size)
        rest = browser.script(
            "const bottom = Math.max(...[...document.querySelectorAll('.card')]"
            ".map((card) => card.getBoundingClientRect().bottom + scrollY));"
            "return document.documentElement.scrollHeight - bottom"
        )
        assert rest < 100


def test_links_lead_somewhere(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["run"])
    lost = browser.script(
        "return [...document.querySelectorAll('a[href^=\"#\"]')]"
        ".filter((a) => !document.getElementById(a.hash.slice(1))).length"
    )
    assert lost == 0


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_film_plays(
    browser: Browser, tmp_path: Path, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any encoder that may be taken, in the colours that were drawn."""
    colour = (200, 60, 40)
    monkeypatch.setattr("pipeline.results.overlays.encoder", lambda: encoder)
    film = VideoFile(tmp_path / "film.mp4", (720, 1280), 12)
    for _ in range(24):
        film.write(np.full((720, 1280, 3), colour, np.uint8))
    film.finish()
    page = tmp_path / "film.html"
    data = base64.b64encode((tmp_path / "film.mp4").read_bytes()).decode()  # or no pixel is told
    page.write_text(
        f'<video src="data:video/mp4;base64,{data}" muted></video>'
        '<canvas width="1" height="1"></canvas>'
    )
    browser.open(page)
    played = browser.driver.execute_async_script(
        "const done = arguments[arguments.length - 1], film = document.querySelector('video');"
        "film.addEventListener('error', () => done(film.error.message));"
        "film.addEventListener('timeupdate', () => { if (film.currentTime > 0.5) {"
        "const drawn = document.querySelector('canvas').getContext('2d');"
        "drawn.drawImage(film, 640, 360, 1, 1, 0, 0, 1, 1);"
        "done([film.currentTime, ...drawn.getImageData(0, 0, 1, 1).data]); } });"
        "film.play().catch((error) => done(String(error)));"
    )
    assert isinstance(played, list), played
    assert played[0] > 0.5
    assert np.abs(np.array(played[1:4]) - colour).max() <= 6
