"""The page of ``numbaconv teach`` in headless Chromium: it runs by itself, does what its controls say, and fits."""

from __future__ import annotations

import itertools
import json
import re

import pytest

pytest.importorskip("PIL")

import teach_data
from browser import TOO_PALE, chromium, opened, until

from numbaconv.teach import document

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(document.build(teach_data.document()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def shared(browser, file):
    """One window for the tests that only press buttons of different parts."""
    with opened(browser, file) as page:
        yield page


def place(figure) -> int:
    return int(re.match(r"(\d+) of", figure.locator("output").first.inner_text())[1])


# ------------------------------------------------------------------------------------------------------- the window


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_fits_and_can_be_read(browser, file, width, scheme):
    """No sideways scrolling, and at least 4.5 : 1 between words and what is behind them."""
    with opened(browser, file, width, scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.documentElement.dataset.theme") == scheme
        page.evaluate("for (const part of document.querySelectorAll('details, .listing')) part.open = true;")
        page.evaluate("for (const part of document.querySelectorAll('.listing')) part.classList.add('with-gone');")
        page.get_by_role("tab", name="2 ikj").click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(TOO_PALE) == []


def test_light_and_dark_are_switched(shared):
    button = shared.get_by_role("button", name="Dark")
    colour = "getComputedStyle(document.body).backgroundColor"
    before = shared.evaluate(colour)
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert shared.evaluate(colour) != before
    button.click()
    assert shared.evaluate(colour) == before


def test_every_control_has_a_name_and_the_keyboard_reaches_it(browser, file):
    with opened(browser, file) as page:
        unnamed = page.evaluate("""() =>
          [...document.querySelectorAll('button, input, select, [role=img], [role=region], [role=group]')].filter(
            (node) => !(node.getAttribute('aria-label') || node.labels?.length || node.textContent.trim()))
          .map((node) => node.outerHTML.slice(0, 100))""")
        assert unnamed == []
        wanted = page.evaluate("""() => [...document.querySelectorAll('button, input, select, summary, a[href]')]
          .filter((node) => node.tabIndex >= 0 && node.offsetParent)
          .map((node, i) => { node.dataset.stop = i; return i; }).length""")
        reached = set()
        for _ in range(2 * wanted):
            page.keyboard.press("Tab")
            stop = page.evaluate("document.activeElement.dataset.stop ?? null")
            if stop is not None:
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none", stop
                reached.add(int(stop))
            if len(reached) == wanted:
                break
        assert reached == set(range(wanted))
        stops = """[...document.querySelectorAll('[role=tablist]')].map(
          (list) => list.querySelectorAll('[tabindex="0"]').length)"""
        assert page.evaluate(stops) == [1, 1, 1]  # one tab of each; arrow keys reach the others


def test_headings_that_scripts_write_stand_in_order_too(shared):
    levels = shared.evaluate("[...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].map((node) => +node.tagName[1])")
    assert 4 in levels
    assert all(below <= above + 1 for above, below in itertools.pairwise(levels))


def test_charts_say_in_words_what_they_draw(shared):
    said = shared.evaluate("[...document.querySelectorAll('.plot')].map((node) => node.getAttribute('aria-label'))")
    assert len(said) > 8
    assert all(re.search(r"\d", text) for text in said)
    tables = shared.evaluate(
        "[...document.querySelectorAll('.plot')].map((node) => node.parentElement.querySelectorAll('td').length)"
    )
    assert all(tables)


def test_a_section_that_was_not_measured_says_why(browser, tmp_path):
    data = teach_data.document()
    data["sections"]["device"] = {"reason": "greenlet is <not> installed"}
    del data["sections"]["sweep"]
    file = tmp_path / "page.html"
    file.write_text(document.build(data), encoding="utf-8")
    with opened(browser, file) as page:
        assert page.locator("#device-steps").inner_text() == "Not measured here: greenlet is <not> installed"
        assert "Not measured here" in page.locator("#sweeps").inner_text()


# ----------------------------------------------------------------------------------------------------- the animation


def test_the_animation_stands_still_until_it_is_played_and_when_it_is_paused(shared):
    figure = shared.locator("#animation")
    shared.wait_for_timeout(300)
    assert place(figure) == 0
    figure.get_by_role("button", name="Play").click()
    until(shared, "parseInt(document.querySelector('#animation output').textContent) >= 3")
    figure.get_by_role("button", name="Pause").click()
    stopped = place(figure)
    shared.wait_for_timeout(400)
    assert place(figure) == stopped >= 3


def test_steps_forward_and_back_show_the_same(shared):
    figure = shared.locator("#animation")
    figure.get_by_role("button", name="To the start").click()
    assert place(figure) == 0
    forward, back = (figure.get_by_role("button", name=name) for name in ("One step forward", "One step back"))
    states = []
    for _ in range(5):
        forward.click()
        states.append((figure.locator("svg").inner_html(), figure.locator("table").inner_text()))
    assert place(figure) == 5
    assert len({svg for svg, _ in states}) == 5
    back.click()
    assert (figure.locator("svg").inner_html(), figure.locator("table").inner_text()) == states[3]
    figure.locator("input[type=range]").first.press("ArrowRight")
    assert (figure.locator("svg").inner_html(), figure.locator("table").inner_text()) == states[4]


@pytest.mark.parametrize("name", ["ijk", "ikj", "packed"])
def test_the_rates_at_the_end_are_those_of_the_events(shared, name):
    step = next(one for one in teach_data.accesses()["animation"]["steps"] if one["name"] == name)
    figure = shared.locator("#animation")
    figure.get_by_label("Step", exact=True).select_option(name)
    figure.locator("input[type=range]").first.press("End")
    assert place(figure) == len(step["events"])
    hits = [sum(event[4] == level for event in step["events"]) for level in range(3)]
    last = figure.locator("tbody tr").last.locator("td").all_inner_texts()
    assert [int(text.replace(",", "")) for text in last[:4]] == [len(step["events"]), *hits]
    shown = figure.locator("svg text:not(.title)").all_text_contents()
    touched = {}
    for matrix, row, column, _, level in step["events"]:
        touched[matrix, row, column] = "12M"[level]
    wanted = [
        touched.get((i, row, column), "")
        for i, matrix in enumerate(step["matrices"])
        for row in range(matrix["rows"])
        for column in range(matrix["columns"])
    ]
    assert shown == wanted


# ----------------------------------------------------------------------------------------------------- the convolution


@pytest.mark.parametrize("chosen", [(1, 1, 16, 14), (3, 2, 64, 28), (5, 1, 16, 28), (5, 2, 64, 14)])
def test_the_memory_sliders_say_what_explain_says(shared, chosen):
    for (axis, values), value in zip(teach_data.AXES.items(), chosen, strict=True):
        slider = shared.locator(f"#lowering input[data-axis={axis}]")
        slider.press("Home")
        for _ in range(values.index(value)):
            slider.press("ArrowRight")
    for name, count in teach_data.lowering_bytes(teach_data.problem(*chosen)).items():
        cell = shared.locator(f"#lowering [data-lowering={name}]")
        if count is None:
            assert cell.inner_text() == "refused"
        else:
            assert int(cell.get_attribute("data-bytes")) == count
            assert re.fullmatch(r"[\d,.]+ ([KM]i)?B", cell.inner_text())


def test_the_window_fills_the_matrix_column_by_column(shared):
    figure = shared.locator("#patches")
    assert "10 · 6 = 60" in figure.inner_text()
    shared.locator("#patch-image").focus()
    shared.keyboard.press("ArrowRight")
    shared.keyboard.press("ArrowDown")
    assert place(figure.locator(".controls").nth(1)) == 12  # one across, one row of ten places down, counted from 1
    assert "place (1, 1)" in shared.locator("#patch-status").inner_text()
    pixels = document._pictures()["pixels"]
    grey = [
        sum(part * weight for part, weight in zip(pixels[1 + u][1 + v], (0.299, 0.587, 0.114), strict=True)) / 255
        for u in range(3)
        for v in range(3)
    ]
    shown = shared.locator("#patch-column tbody tr td:first-child").all_inner_texts()
    assert shown == [f"{value:.2f}" for value in grey]
    total = sum(value * weight for value, weight in zip(grey, [-1 / 3, 0, 1 / 3] * 3, strict=True))
    assert f"{total:.3f}".replace("-", "−") in shared.locator("#patch-status").inner_text()
    filled = shared.evaluate("""() => {
      const canvas = document.getElementById('patch-matrix'), pen = canvas.getContext('2d');
      const wide = canvas.width / 60, high = canvas.height / 9;
      return [5, 30].map((column) => [...pen.getImageData((column + 0.5) * wide, 4.5 * high, 1, 1).data]);
    }""")
    centre = pixels[1][6]
    level = round(sum(part * weight for part, weight in zip(centre, (0.299, 0.587, 0.114), strict=True)))
    assert abs(filled[0][0] - level) <= 1
    assert filled[0][3] == 255
    assert filled[1][3] == 0


def test_sizes_follow_kernel_stride_and_padding(shared):
    figure = shared.locator("#patches")
    for name, key in (("Kernel", "End"), ("Stride", "ArrowRight"), ("Padding", "ArrowRight")):
        figure.get_by_label(re.compile(name)).press(key)
    figure.get_by_label("Channels").select_option("colour")
    across, down = (12 + 2 - 5) // 2 + 1, (8 + 2 - 5) // 2 + 1
    assert f"{across} · {down} = {across * down}" in figure.inner_text()
    assert "3 · 5² = 75" in figure.inner_text()
    assert (
        shared.locator("#patch-matrix")
        .get_attribute("aria-label")
        .startswith(f"Matrix of 75 rows and {across * down} columns")
    )


# ------------------------------------------------------------------------------------------------------------ the code


def test_steps_show_what_is_new(shared):
    shared.get_by_role("tab", name="2 ikj").click()
    panel = shared.locator("#ladder-steps [role=tabpanel]")
    new = panel.locator(".listing .new").all_text_contents()
    data = json.loads(shared.locator("#data").text_content())
    listing = data["sections"]["ladder"]["steps"][1]["listing"]
    wanted = ["".join(text for _, text in line["spans"]) for line in listing if line["kind"] == "new"]
    assert [line.removeprefix("new: ").rstrip("\n") for line in new] == wanted
    assert panel.locator(".gone").first.is_hidden()
    panel.get_by_label("lines that went").check()
    assert panel.locator(".gone").first.is_visible()
    shared.keyboard.press("Shift+Tab")
    shared.get_by_role("tab", name="2 ikj").press("ArrowRight")
    assert "3. The idea blocked" in panel.inner_text()
