"""The page in a real browser: type a prompt, press run; both videos play, the numbers are the report's."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from accel.cli.app import main

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PLAYING = (
    "[...document.querySelectorAll('video')].map(v => [v.videoWidth, v.videoHeight, v.paused, v.currentTime])"
)


@contextmanager
def served(folder: Path):
    """The page's address, served by a process of its own whose home is empty."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = folder / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "accel", "ui", "--output", str(folder / "out"), "--port", str(port)]
    process = subprocess.Popen(
        command, cwd=home, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(address)
                break
            except OSError:
                time.sleep(1)
        yield address
    finally:
        process.terminate()
        process.wait()


def test_a_prompt_becomes_two_videos_and_their_numbers(tmp_path):
    pytest.importorskip("gradio", reason="Gradio is not installed (the `ui` extra)")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    hosts = set()
    with served(tmp_path) as address, playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 400, "height": 900})
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        page.goto(address)
        page.fill("#prompt textarea", "a green square moving right over a gray checkered background")
        for label, value in (("Height", "64"), ("Width", "64"), ("Frames", "9"), ("Steps", "2")):
            page.get_by_label(label).fill(value)
        page.click("#run")
        page.wait_for_function(
            "document.querySelector('#status').innerText.includes('done')", timeout=180_000
        )
        page.wait_for_function("[...document.querySelectorAll('video')].every(v => v.readyState == 4)")
        before = page.evaluate(PLAYING)
        page.wait_for_timeout(300)
        after = page.evaluate(PLAYING)
        numbers = page.inner_text("#numbers")
        width = page.evaluate("document.documentElement.scrollWidth")
        browser.close()
    assert [video[:3] for video in after] == [[64, 64, False]] * 2
    assert all(one[3] != other[3] for one, other in zip(before, after, strict=True)), "the videos stand still"
    report = (tmp_path / "out" / "run-001" / "report.html").read_text()
    ssim = next(line.split()[1] for line in numbers.splitlines() if line.startswith("SSIM"))
    assert f"SSIM {ssim} against " in report
    assert width <= 400
    assert hosts == {address.split("/")[2]}, "the page asked another machine"
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()], (
        "written outside its folder"
    )


def test_without_gradio_one_sentence_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(sys, "argv", ["accel", "ui", "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "accel ui needs Gradio: pip install 'sparse-accel[ui]'" in capsys.readouterr().err
