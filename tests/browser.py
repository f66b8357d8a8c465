"""A headless Chromium for tests: what is missing for it, and pages that tell all that goes wrong on them."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

TOO_PALE = """() => {
  const parse = (colour) => {
    const [r, g, b, alpha = 1] = colour.match(/[\\d.]+/g).map(Number);
    return {rgb: [r, g, b], alpha};
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const {rgb, alpha} = parse(getComputedStyle(node).backgroundColor);
      if (alpha === 1) return rgb;
    }
    return [255, 255, 255];
  };
  const found = new Set();
  for (const node of document.body.querySelectorAll("*:not(svg, svg *, script, style, template)")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || !node.offsetParent || node.disabled || node.matches(".hidden")) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color).rgb), light(behind(node))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.add(`${node.tagName}.${node.className}: ${ratio.toFixed(2)}`);
  }
  return [...found];
}"""
"""Elements whose own words stand out by less than 4.5 : 1 from the colour behind them."""


def executable() -> str | None:
    """The first browser on the path."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def missing() -> str | None:
    """Why no page can be opened here."""
    for library in ("playwright", "PIL"):
        if importlib.util.find_spec(library) is None:
            return f"{library} is not installed"
    return None if executable() else f"there is no {' or '.join(NAMES[:3])} on the path"


@contextmanager
def chromium() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=["--no-sandbox"])
        yield browser
        browser.close()


def until(page, condition: str) -> None:
    """Wait for a condition; Playwright's own way needs `eval`, which the page forbids."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"not within ten seconds: {condition}")


@contextmanager
def opened(browser, file: Path, width: int = 1440, scheme: str = "light", motion: str = "reduce") -> Iterator:
    """The file in a window of its own; errors, and requests for anything but the file, fail the test in the end."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion=motion)
    page.set_default_timeout(120_000)
    wrong: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    until(page, "[...document.querySelectorAll('.plot')].every((plot) => plot.querySelector('svg'))")
    yield page
    page.close()
    assert not wrong, wrong
    fetched = [url for url in asked if not url.startswith("data:")]
    assert fetched == [file.as_uri()], fetched
