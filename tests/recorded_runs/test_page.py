"""The saved page in a real browser without a window: light, dark, and as narrow as a phone."""

from __future__ import annotations

import html
import re
import subprocess
from pathlib import Path

import pytest
from chromium import CHROMIUM
from PIL import Image
from stores import Store

from runner import compare

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium to look at the page: apt-get install chromium"),
]

LIGHT, DARK = "--blink-settings=preferredColorScheme=1", "--blink-settings=preferredColorScheme=0"


def browse(page: Path, folder: Path, *flags: str) -> str:
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={folder / 'profile'}",
    ]
    done = subprocess.run(
        [*command, *flags, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


@pytest.fixture(scope="module")
def page(grid: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    arguments = [
        "--output-dir",
        str(grid.output_dir),
        "--experiment",
        "grid",
        "--baseline",
        "quantization=none",
    ]
    assert compare.main([*arguments, "--save", str(folder)]) == 0
    return folder / "comparison.html"


def luminance(picture: Path) -> list[int]:
    """The number of pixels of each of 256 greys."""
    with Image.open(picture) as image:
        return image.convert("L").histogram()


@pytest.mark.thorough
@pytest.mark.parametrize(("scheme", "dark"), [(LIGHT, False), (DARK, True)], ids=["light", "dark"])
def test_it_is_drawn_in_the_readers_colours(page: Path, tmp_path: Path, scheme: str, dark: bool) -> None:
    picture = tmp_path / "page.png"
    browse(page, tmp_path, scheme, "--window-size=1300,1500", "--hide-scrollbars", f"--screenshot={picture}")
    greys = luminance(picture)
    black, white, whole = sum(greys[:50]), sum(greys[220:]), sum(greys)
    assert (black if dark else white) > 0.7 * whole  # the paper, behind the drawings too
    assert (white if dark else black) > 0.003 * whole  # the ink
    assert (white if dark else black) < 0.2 * whole


@pytest.mark.thorough
def test_a_phone_shows_it_without_scrolling_sideways(page: Path, tmp_path: Path) -> None:
    """The page in a frame 390 pixels wide: tables and drawings scroll by themselves, the page does
    not."""
    frame = tmp_path / "frame.html"
    source = html.escape(page.read_text(), quote=True)
    frame.write_text(
        f"""<!doctype html><iframe id=phone width=390 height=800 style="border:0" srcdoc="{source}"></iframe><p id=out>
<script>
phone.onload = () => {{
  const it = phone.contentDocument, wide = it.querySelector(".wide"), flips = it.querySelector("details");
  flips.open = true;
  out.textContent = [it.documentElement.scrollWidth, wide.clientWidth < wide.scrollWidth,
    getComputedStyle(it.querySelector(".sides")).gridTemplateColumns.split(" ").length,
    parseFloat(getComputedStyle(it.body).fontSize) >= 14].join(" ");
}};
</script>"""
    )
    flags = ("--window-size=800,900", "--hide-scrollbars", "--dump-dom")
    match = re.search(r"<p id=\"out\">([^<\n]*)", browse(frame, tmp_path, *flags))
    assert match is not None
    assert match[1].split() == ["390", "true", "1", "true"]
