"""`python -m tests.play_pictures` makes pictures of `artv play`: `docs/play.webp`, which moves, and `docs/play.png`.

Both show the command's own page in a browser while a person types, says it, turns, and goes back. The moving one has a
picture for each frame of the video that is shown, and plays at the video's rate. So the line about the computer's rate
is left out: a machine that draws the browser in software, and takes pictures of it, is slower. Needs PyPI's
`playwright`, and a Chromium of the system.
"""

import io
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from tests.host.browser import missing, open_browser

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
FPS, QUALITY, MAX_BYTES = 8, 55, 600_000
FIRST = "a medium green triangle moving right on a white background"
THEN = "a medium red square moving left on a white background"
SIZE, STILL_SIZE = (560, 580), (1000, 700)
WORDS = ["play", "--no-browser", "--seed", "7", "--steps", "4", "--first-frame-steps", "12", "--prompt", FIRST]


def main() -> None:
    if missing():
        raise SystemExit(missing())
    with tempfile.TemporaryDirectory() as folder, open_browser() as context:
        command = [sys.executable, "-m", "artv_core.cli", *WORDS, "--output", folder]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            page = context.new_page()
            page.set_viewport_size({"width": SIZE[0], "height": SIZE[1]})
            page.goto(process.stdout.readline().strip())
            page.evaluate("() => { document.getElementById('pace').style.display = 'none' }")
            pictures = list(performed(page))
            page.set_viewport_size({"width": STILL_SIZE[0], "height": STILL_SIZE[1]})
            page.screenshot(path=DOCS / "play.png")
        finally:
            process.terminate()
            process.wait()
    path, (images, frames) = DOCS / "play.webp", zip(*pictures, strict=True)
    durations = [1000 * max(1, count) // FPS for count in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0, quality=QUALITY, method=4)
    print(path, f"{path.stat().st_size / 1000:.0f} kB, {len(images)} pictures, {sum(durations) / 1000:.1f} s")
    if path.stat().st_size > MAX_BYTES:
        raise SystemExit(f"more than {MAX_BYTES} bytes")


def performed(page: "Page") -> Iterator[tuple[Image.Image, int]]:
    """What a person does, as pictures, each with the number of frames that it is shown for."""
    wait_for_frame(page, 8)
    yield from watched(page, 10)
    page.keyboard.press("Enter")
    for begin in range(0, len(THEN), 5):
        page.keyboard.type(THEN[begin : begin + 5])
        yield from watched(page, 1)
    page.keyboard.press("Enter")
    yield from watched(page, 26)
    page.keyboard.press("ArrowUp")
    yield from watched(page, 18)
    page.keyboard.press("r")
    page.wait_for_function("() => document.querySelector('#strip i:not(:empty)')")
    yield from watched(page, 18)


def watched(page: "Page", frames: int) -> Iterator[tuple[Image.Image, int]]:
    """Pictures of the page while that many frames are shown."""
    before, seen = frame_of(page), 0
    while seen < frames:
        page.wait_for_function("(before) => document.getElementById('clock').textContent !== before", arg=before[1])
        now = frame_of(page)
        passed = now[0] - before[0] if 0 < now[0] - before[0] < FPS else 1
        seen, before = seen + passed, now
        yield Image.open(io.BytesIO(page.screenshot())).convert("RGB"), passed


def frame_of(page: "Page") -> tuple[int, str]:
    """The frame that is shown, and the page's words for it."""
    text = page.locator("#clock").text_content() or ""
    found = re.search(r"frame ([\d,]+)", text)
    return int(found[1].replace(",", "")) if found else 0, text


def wait_for_frame(page: "Page", frame: int) -> None:
    while frame_of(page)[0] < frame:
        page.wait_for_timeout(100)


if __name__ == "__main__":
    main()
