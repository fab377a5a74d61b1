"""Take docs/ui.png: start ``cones ui``, click through it in Chromium, keep what it looks like.

docs/ui.md says how the concepts were found and gives the command.
"""

import argparse
import signal
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
WIDTH, HEIGHT, PATIENCE = 1280, 820, 600_000  # pixels, pixels, milliseconds


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", help="concept files; only the first is switched on")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--word", help="word whose attention is shown")
    parser.add_argument("--steps", default="50")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--guidance", default="7.5")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/ui.png"))
    return parser.parse_args()


def click_through(page: Page, given: argparse.Namespace) -> None:
    """Draw the prompt with the first concept on."""
    for card in page.locator(".card").all()[1:]:
        card.locator(".on").uncheck()
    for field in ("prompt", "steps", "seed", "guidance"):
        page.fill(f"#{field}", getattr(given, field))
    page.click("#draw")
    page.wait_for_selector("#pictures img", timeout=PATIENCE)
    if given.word:
        page.get_by_role("button", name=given.word, exact=True).click()
    page.mouse.move(0, 0)
    page.wait_for_load_state("networkidle")


def main() -> None:
    """Start the page, click, write the picture in 256 colours, end the page."""
    given = arguments()
    command = [sys.executable, "-m", "cones.cli", "ui", "--port", "0", *given.files]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=given.chromium, args=FLAGS)
                page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
                page.goto(process.stdout.readline().split()[1])
                page.wait_for_selector(".card")
                click_through(page, given)
                page.screenshot(path=given.output)
                browser.close()
        finally:
            process.send_signal(signal.SIGINT)
    with Image.open(given.output) as picture:
        plain = picture.convert("RGB")
    plain.quantize(palette=plain.quantize(256)).save(given.output, optimize=True)


if __name__ == "__main__":
    main()
