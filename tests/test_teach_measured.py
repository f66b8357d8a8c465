"""The page of ``numbaconv teach`` as this machine measured it: NUMBACONV_PAGE names the file.

CI's leg "teaching" writes it just before; the page's own tests draw made-up figures.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from browser import TOO_PALE, chromium, opened, until

from numbaconv.teach.page import SECTIONS

FILE = os.environ.get("NUMBACONV_PAGE")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not FILE, reason="NUMBACONV_PAGE names no page: numbaconv teach --quick --out page.html"),
]


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_without_an_error_and_fits(browser, width, scheme):
    with opened(browser, Path(FILE), width, scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(TOO_PALE) == []


def test_everything_was_measured(browser):
    with opened(browser, Path(FILE)) as page:
        found = json.loads(page.locator("#data").text_content())["sections"]
        assert set(SECTIONS) <= set(found)
        refused = {name: one["reason"] for name, one in found.items() if isinstance(one, dict) and one.get("reason")}
        assert refused == {}
        assert "Not measured here" not in page.locator("body").inner_text()


def test_the_animation_advances(browser):
    with opened(browser, Path(FILE)) as page:
        page.locator("#animation").get_by_role("button", name="Play").click()
        until(page, "parseInt(document.querySelector('#animation output').textContent) >= 3")


def test_the_sliders_show_what_was_counted(browser):
    with opened(browser, Path(FILE)) as page:
        memory = json.loads(page.locator("#data").text_content())["sections"]["convolution"]["memory"]
        for end, last in (("Home", 0), ("End", -1)):
            table = memory["bytes"]
            for axis, values in memory["axes"].items():
                page.locator(f"#lowering input[data-axis={axis}]").press(end)
                table = table[last] if isinstance(table, list) else table[str(values[last])]
            counts = table if isinstance(table, dict) else dict(zip(memory["lowerings"], table, strict=True))
            for name, count in counts.items():
                cell = page.locator(f"#lowering [data-lowering={name}]")
                shown = cell.get_attribute("data-bytes")
                assert cell.inner_text() == "refused" if count is None else int(shown) == count
