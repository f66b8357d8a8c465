"""The page of ``numbaconv teach``, without a browser: what it embeds, that its HTML is sound, how it is written."""

from __future__ import annotations

import html.parser
import itertools
import json
import math
import re
import stat
import types

import numpy as np
import pytest

pytest.importorskip("PIL")

import teach_data

from numbaconv.errors import DeviceUnavailable
from numbaconv.teach import document, listing, page

pytestmark = pytest.mark.teach

VOID = {"meta", "link", "img", "input", "br", "hr"}


@pytest.fixture(scope="module")
def data():
    return teach_data.document()


@pytest.fixture(scope="module")
def text(data):
    return document.build(data)


class Reader(html.parser.HTMLParser):
    """All elements with their attributes, the texts of scripts, and what is nested wrongly."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.wrong: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, attribute: str) -> list[str]:
        return [attributes[attribute] for _, attributes in self.elements if attributes.get(attribute) is not None]

    def script(self, **wanted: str) -> list[str]:
        """The texts of the scripts with these attributes."""
        contents = [text for tag, text in self.texts if tag == "script"]
        scripts = [attributes for tag, attributes in self.elements if tag == "script"]
        assert len(contents) == len(scripts)
        return [
            content
            for content, attributes in zip(contents, scripts, strict=True)
            if all(attributes.get(name) == value for name, value in wanted.items())
        ]


@pytest.fixture(scope="module")
def reader(text):
    return Reader(text)


# ------------------------------------------------------------------------------------------------------- the file


def test_every_element_is_closed_and_every_id_is_its_own(reader):
    assert reader.wrong == []
    assert reader.open == []
    ids = reader.all("id")
    assert len(ids) == len(set(ids))
    wanted = {
        *reader.all("aria-labelledby"),
        *reader.all("for"),
        *(link[1:] for link in reader.all("href") if link[0] == "#"),
    }
    assert wanted <= set(ids)


def test_headings_stand_in_order(reader):
    levels = [int(tag[1]) for tag, _ in reader.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below <= above + 1 for above, below in itertools.pairwise(levels))


def test_nothing_is_fetched(reader, text):
    assert reader.all("src") == []
    links = [(tag, attributes["href"]) for tag, attributes in reader.elements if "href" in attributes]
    assert all(tag == "a" or href == "data:," for tag, href in links)
    styles = "".join(text for tag, text in reader.texts if tag == "style")
    assert not re.search(r"url\(|@import", styles)
    for script in reader.script(type="module"):
        assert not re.search(r"\b(fetch|import|XMLHttpRequest|WebSocket|Worker)\b|https?:(?!//www\.w3\.org)", script)
    policy = next(attributes["content"] for _, attributes in reader.elements if "http-equiv" in attributes)
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_the_data_come_back_whole(reader, data):
    (embedded,) = reader.script(type="application/json")
    found = json.loads(embedded)
    for step in (*found["sections"]["ladder"]["steps"], *found["sections"]["device"]["steps"],
                 *found["sections"]["convolution"]["ladder"]):  # fmt: skip
        lines = ["".join(text for _, text in line["spans"]) for line in step.pop("listing") if line["kind"] != "gone"]
        assert lines == step["source"].splitlines()
    assert found.pop("photograph")["uri"].startswith("data:image/jpeg;base64,/9j/")
    assert found == data


def test_texts_cannot_end_the_script_that_holds_them(reader, data):
    assert "</script><!--" in data["sections"]["ladder"]["steps"][0]["source"]
    (embedded,) = reader.script(type="application/json")
    assert "<" not in embedded
    with pytest.raises(ValueError, match="</script"):
        document._script("let text = '</script>'")


def test_every_script_of_the_folder_is_on_the_page(reader):
    files = {path.stem for path in document.STATIC.glob("*.js")}
    assert files == set(document.SCRIPTS)
    assert len(reader.script(type="module")) == len(document.SCRIPTS)
    assert all(len((document.STATIC / f"{name}.js").read_text().splitlines()) < 300 for name in files)


def test_the_libraries_carry_their_licences(text):
    for name in document.LIBRARIES:
        assert (document.STATIC / "vendor" / f"LICENSE-{name}.txt").read_text().strip() in text


def test_every_place_that_a_script_fills_is_on_the_page(reader, text):
    wanted = {name for script in reader.script(type="module") for name in re.findall(r'part\("([\w-]+)"', script)}
    assert len(wanted) > 10
    assert wanted <= set(reader.all("id"))


def test_the_page_is_small_enough_to_be_mailed(text):
    assert len(text.encode()) < 3_000_000


def test_the_coarse_picture_is_the_mean_of_its_blocks():
    image = np.arange(240 * 160 * 3, dtype=np.float64).reshape(160, 240, 3) % 251
    coarse = document._coarse(image.astype(np.uint8))
    assert coarse.shape == (8, 12, 3)
    assert coarse[3, 5, 1] == round(image[60:80, 100:120, 1].mean())


# --------------------------------------------------------------------------------------------------------- the code

SOURCE = '''@compiled
def gemm(a, b):  # a "word"
    for i in range(3):
        x = """two
lines""" + f"{i}"
'''


def test_coloured_lines_are_the_lines():
    lines = listing.coloured(SOURCE)
    assert ["".join(text for _, text in line) for line in lines] == SOURCE.splitlines()
    kinds = {text: kind for line in lines for kind, text in line}
    assert kinds["def"] == kinds["for"] == "keyword"
    assert kinds["gemm"] == kinds["compiled"] == "name"
    assert kinds["range"] == "builtin"
    assert kinds["3"] == "number"
    assert kinds['# a "word"'] == "comment"
    assert kinds['lines"""'] == kinds['"""two'] == "string"


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        (None, "a\nb\n", ["same", "same"]),
        ("a\nb\n", "a\nb\n", ["same", "same"]),
        ("a\nb\n", "a\nc\n", ["same", "gone", "new"]),
        ("a\n", "if a:\n    a\n", ["new", "same"]),  # moved in
        ("a\n", "a\n\nb\n", ["same", "same", "new"]),  # an empty line is never new
        ("", "a\n", ["new"]),
        ("a\nb\n", "", ["gone", "gone"]),
    ],
)
def test_lines_are_compared(before, after, kinds):
    found = listing.compared(after, before)
    assert [line["kind"] for line in found] == kinds
    shown = ["".join(text for _, text in line["spans"]) for line in found if line["kind"] != "gone"]
    assert shown == after.splitlines()


# --------------------------------------------------------------------------------------------- measuring and writing


def section(ticks: int, found: object) -> types.ModuleType:
    module = types.ModuleType("invented")
    module.units = lambda quick: ticks + quick

    def measure(quick, tick):
        for number in range(ticks + quick):
            tick(str(number))
        if isinstance(found, Exception):
            raise found
        return found

    module.measure = measure
    return module


@pytest.fixture
def sections(monkeypatch):
    modules = {
        "ladder": section(2, {"peak": np.float32(3), "bad": math.inf, "sizes": np.arange(2), "pair": (1, None)}),
        "sweep": section(1, [1]),
        "device": section(1, DeviceUnavailable("greenlet is not installed")),
        "roofline": "no module named such",
    }
    monkeypatch.setattr(page, "SECTIONS", tuple(modules))
    monkeypatch.setattr(page, "_module", modules.get)


def test_sections_are_gathered_and_those_that_cannot_be_say_why(sections):
    told = []

    class Bar:
        def __init__(self, title, total):
            told.append(total)

        def __enter__(self):
            return told.append

        def __exit__(self, *_):
            pass

    found = page.gather(True, Bar, ["numbaconv 0"])
    assert told == [7, "0", "1", "2", "0", "1", "0", "1"]
    assert found["sections"] == {
        "ladder": {"peak": 3.0, "bad": None, "sizes": [0, 1], "pair": [1, None]},
        "sweep": [1],
        "device": {"reason": "greenlet is not installed"},
        "roofline": {"reason": "no module named such"},
    }
    assert found["about"]["quick"] is True
    assert found["about"]["versions"] == ["numbaconv 0"]
    json.dumps(found, allow_nan=False)


def test_a_fault_of_ours_is_no_reason(monkeypatch):
    monkeypatch.setattr(page, "SECTIONS", ("ladder",))
    monkeypatch.setattr(page, "_module", {"ladder": section(0, TypeError("a fault"))}.get)
    with pytest.raises(TypeError, match="a fault"):
        page.gather()


def test_a_section_that_does_not_exist_says_so():
    assert "no_such_section" in page._module("no_such_section")


def test_what_was_measured_is_kept_and_makes_the_same_page(sections, tmp_path):
    out, kept = tmp_path / "page.html", tmp_path / "data.json"
    found = page.write(out, quick=True, json_file=kept)
    assert page.read(kept) == found
    assert document.build(page.read(kept)) == out.read_text(encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.json", "page.html"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "page.html"
    page.save(file, "one")
    with pytest.raises(UnicodeEncodeError):
        page.save(file, "two \ud800")
    assert file.read_text() == "one"
    assert list(tmp_path.iterdir()) == [file]
    other = tmp_path / "other"
    other.write_text("")
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)
    with pytest.raises(page.PageError, match=r"cannot write .*nowhere"):
        page.save(tmp_path / "nowhere" / "page.html", "one")
    with pytest.raises(page.PageError, match="cannot write"):
        page.save(tmp_path, "one")
    assert sorted(tmp_path.iterdir()) == [other, file]


@pytest.mark.parametrize(
    ("text", "said"), [("{", "is not JSON"), ("[]", "was not written by"), ('{"format": 0}', "format 1")]
)
def test_another_file_is_not_taken_for_data(tmp_path, text, said):
    file = tmp_path / "data.json"
    file.write_text(text)
    with pytest.raises(page.PageError, match=said):
        page.read(file)
    with pytest.raises(page.PageError, match="cannot read"):
        page.read(tmp_path / "nothing.json")


# -------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def call(tmp_path, monkeypatch):
    testing = pytest.importorskip("click.testing")
    pytest.importorskip("rich")
    from numbaconv.commands.group import numbaconv

    monkeypatch.chdir(tmp_path)
    return lambda *arguments: testing.CliRunner().invoke(numbaconv, ["teach", *map(str, arguments)])


def test_the_command_measures_and_writes(call, sections, tmp_path):
    result = call("--quick", "--json", "data.json")
    assert result.exit_code == 0, result.output
    assert "not measured: device: greenlet is not installed" in result.output
    assert "written: numbaconv-teach.html" in result.output
    written = (tmp_path / "numbaconv-teach.html").read_text(encoding="utf-8")
    assert document.build(page.read(tmp_path / "data.json")) == written
    again = call("--data", "data.json", "--out", "again.html")
    assert again.exit_code == 0, again.output
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == written


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "nowhere/page.html"], "there is no directory"),
        (["--out", "."], "is a directory"),
        (["--data", "nothing.json"], "cannot read nothing.json"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_measured(call, monkeypatch, arguments, said):
    monkeypatch.setattr(page, "gather", None)
    result = call(*arguments)
    assert result.exit_code == 2
    assert said in result.output
