"""The page in a headless Chromium: upload, type, click, slide; and the pages of `clipalign report`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clipalign.commands.cli import main

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT = 30_000  # milliseconds

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytest.importorskip("gradio", reason="needs gradio")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium (Debian: apt install chromium)"),
]


class Server:
    """`clipalign app` in a process of its own.

    Attributes:
        url: where it listens.
        log: file of what it prints.
    """

    def __init__(self, models: list[str], log: Path) -> None:
        self.log = log
        command = [sys.executable, "-m", "clipalign", "app", *models, "--port", "0", "--device", "cpu"]
        with log.open("w") as file:
            self.process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()  # "Open http://... (Ctrl+C to stop)"
        assert line.startswith("Open http://127.0.0.1:"), line + log.read_text()
        self.url = line.split()[1]

    def stop(self) -> None:
        """Stop it."""
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, erm_run: Path, smartclip_run: Path) -> Iterator[Server]:
    """Serve the pocket model and two runs."""
    log = tmp_path_factory.mktemp("server") / "log.txt"
    server = Server(["pocket", str(erm_run), str(smartclip_run)], log)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Start Chromium once."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def tab(chromium: Any) -> Iterator[Any]:
    """Open an empty tab; at the end, nothing was wrong in the console and nothing came from another machine."""
    page = chromium.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(WAIT)
    errors: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.on("dialog", lambda dialog: errors.append(f"dialog {dialog.message}"))
    yield page
    page.close()
    assert errors == []
    local = ("http://127.0.0.1:", "ws://127.0.0.1:", "file:", "data:", "blob:")
    assert [url for url in requests if not url.startswith(local)] == []


@pytest.fixture
def page(tab: Any, server: Server) -> Any:
    """Open the page and wait for the answers and maps of the first example."""
    tab.goto(server.url)
    tab.wait_for_selector("#maps img")
    return tab


def photo_of(page: Any) -> str:
    """Return the address of the shown photo."""
    return str(page.get_attribute("#photo img", "src"))


def expect_change(page: Any, selector: str, before: str, attribute: str | None = None) -> str:
    """Wait until the text, or an attribute, of an element is another one, and return it."""
    read = "e.innerText" if attribute is None else f"e.getAttribute('{attribute}')"
    script = f"([s, old]) => {{ const e = document.querySelector(s); return e && {read} && {read} !== old }}"
    page.wait_for_function(script, arg=[selector, before])
    return str(page.inner_text(selector) if attribute is None else page.get_attribute(selector, attribute))


def upload(page: Any, file: Path) -> None:
    """Put a file in place of the present photo."""
    if page.locator("#photo button[aria-label='Remove Image']").count():
        page.click("#photo button[aria-label='Remove Image']")
        page.wait_for_selector("#photo input[type=file]", state="attached")
    page.set_input_files("#photo input[type=file]", str(file))


def test_first_page_shows_an_example_and_says_what_the_model_knows(page: Any, server: Server) -> None:
    assert "knows drawings only" in page.inner_text(".notice")
    titles = page.locator("#answers h3").all_inner_texts()
    assert titles[0] == "pocket zero-shot" and {"squares", "masks"} <= set(titles)
    assert "rabbit" in page.inner_text("#answers .bar >> nth=0")
    assert page.locator("#slider img").count() >= 2
    assert "Traceback" not in server.log.read_text()


def test_uploaded_photo_and_typed_names_change_answers_and_maps(page: Any, tmp_path: Path) -> None:
    Image.new("RGB", (300, 200), "red").save(tmp_path / "red.jpg")
    answers, photo = page.inner_text("#answers"), photo_of(page)
    maps = page.get_attribute("#maps img", "src")
    upload(page, tmp_path / "red.jpg")
    page.wait_for_function("() => document.querySelector('#answers').innerText.includes('centre')")
    assert photo_of(page) != photo
    expect_change(page, "#maps img", maps, "src")
    page.fill("#names textarea", "a fire truck, <img src=x onerror=alert(1)>\na whale")
    page.click("#ask")
    page.wait_for_function("() => document.querySelector('#answers').innerText.includes('fire truck')")
    shown = page.inner_text("#answers")
    assert shown != answers and "<img src=x onerror=alert(1)>" in shown  # as text
    page.wait_for_function("() => document.querySelector('#maps').innerText.includes('whale')")


def test_example_replaces_photo_and_names(page: Any) -> None:
    photo, names = photo_of(page), page.input_value("#names textarea")
    page.click("#examples button >> nth=1")
    expect_change(page, "#photo img", photo, "src")
    page.wait_for_function("() => document.querySelector('#answers').innerText.includes('graduation cap')")
    assert page.input_value("#names textarea") != names


def test_structure_and_text_change_the_maps(page: Any) -> None:
    table = page.get_attribute("#maps img", "src")
    slider = page.get_attribute("#slider img", "src")
    page.click("#structure input")
    page.get_by_role("option", name="K-K-V").click()
    table = expect_change(page, "#maps img", table, "src")
    slider = expect_change(page, "#slider img", slider, "src")
    page.click("#distinct input")
    expect_change(page, "#maps img", table, "src")
    page.click("#text input")
    page.get_by_role("option", name="turtle").click()
    expect_change(page, "#slider img", slider, "src")


def test_alpha_moves_the_answers(page: Any) -> None:
    page.get_by_role("tab", name="Between zero-shot and fine-tuned").click()
    page.wait_for_selector("#curve img")
    bars, curve = page.inner_text("#along"), page.get_attribute("#curve img", "src")
    page.fill("#alpha input[type=number]", "1")
    page.keyboard.press("Enter")
    assert "alpha 1.0" in expect_change(page, "#along", bars)
    expect_change(page, "#curve img", curve, "src")


def test_captions_open_dimensions(page: Any) -> None:
    page.get_by_role("tab", name="Dimensions a caption opens").click()
    page.wait_for_selector("#masks img")
    picture = page.get_attribute("#masks img", "src")
    page.fill("#captions textarea", "a red square\na blue square")
    page.click("#show-masks")
    expect_change(page, "#masks img", picture, "src")


def test_bad_file_gives_a_message_and_the_page_goes_on(page: Any, tmp_path: Path, server: Server) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n, and nothing else")
    upload(page, tmp_path / "broken.png")
    page.wait_for_selector("#answers [role=alert]")
    assert "broken.png cannot be read" in page.inner_text("#answers")
    page.click("#examples button >> nth=1")
    page.wait_for_function("() => document.querySelector('#answers').innerText.includes('graduation cap')")
    page.fill("#names textarea", " ")
    page.click("#ask")
    page.wait_for_selector("#answers [role=alert]")
    assert "Type some class names" in page.inner_text("#answers")
    assert "Traceback" not in server.log.read_text()


def test_report_opens_without_errors(tab: Any, erm_run: Path, tmp_path: Path) -> None:
    assert main(["report", str(erm_run.parent), "--out", str(tmp_path / "report"), "--pictures", "1"]) == 0
    tab.goto((tmp_path / "report" / "report.html").as_uri())
    tab.wait_for_selector("table")
    assert tab.locator("img").count() > 0
    assert tab.evaluate("() => [...document.images].every(image => image.complete && image.naturalWidth > 0)")
