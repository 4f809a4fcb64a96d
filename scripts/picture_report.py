"""The picture of a report for the README: the top of the page beside one opened question.

python scripts/picture_report.py results/demo/report.html docs/report.png"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

WIDE, HIGH = 1180, 1250
"""Pixels of each half."""
SCALE = 0.72
"""What the halves are reduced by."""
COLOURS = 128
"""So many colours are enough, and a third of the size."""


def halves(page: Page, report: Path) -> tuple[bytes, bytes]:
    """The top of the page, and the first question opened, as PNG."""
    page.goto(report.resolve().as_uri())
    top = page.screenshot()
    page.locator(".listed [role=option]").first.click()
    page.locator(".browse").first.evaluate("part => part.scrollIntoView()")
    return top, page.screenshot()


def main() -> None:
    """Writes the picture. Exit code 2 without a browser."""
    report, out = map(Path, sys.argv[1:])
    browser = shutil.which("chromium")
    if browser is None:
        print("error: no chromium here", file=sys.stderr)
        raise SystemExit(2)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = started.new_page(viewport={"width": WIDE, "height": HIGH}, color_scheme="light")
        pictures = [Image.open(io.BytesIO(half)).convert("RGB") for half in halves(page, report)]
        started.close()
    both = Image.new("RGB", (2 * WIDE + 20, HIGH), "#999999")
    for number, picture in enumerate(pictures):
        both.paste(picture, (number * (WIDE + 20), 0))
    small = both.resize((round(SCALE * both.width), round(SCALE * HIGH)), Image.Resampling.LANCZOS)
    small.quantize(COLOURS).save(out, optimize=True)


if __name__ == "__main__":
    main()
