"""Takes the picture of a report that the documentation shows.

    equimodal demo --out study
    python scripts/report_picture.py study docs/images/report.png

Needs the extra `browser`, and Chromium on the PATH. The picture is the top of the page, 1,400 pixels wide.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

WIDTH, HEIGHT, COLOURS = 1400, 1180, 128


def main(arguments: list[str]) -> int:
    """Open the page, take its picture, and reduce its colours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder with a report.html")
    parser.add_argument("picture", type=Path, help=".png file to write")
    values = parser.parse_args(arguments)
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        print("expected Chromium on the PATH. Found none. On Debian: apt-get install chromium", file=sys.stderr)
        return 1
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto((values.study / "report.html").resolve().as_uri())
        taken = page.screenshot()
        browser.close()
    picture = Image.open(io.BytesIO(taken)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(values.picture, optimize=True)
    print(f"{values.picture}: {values.picture.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
