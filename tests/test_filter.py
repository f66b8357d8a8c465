"""``numbaconv filter``: banks of kernels, photographs of every kind, and the picture that is drawn."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest

testing = pytest.importorskip("click.testing")
pytest.importorskip("rich")
Image = pytest.importorskip("PIL.Image")
figures = pytest.importorskip("matplotlib.figure")

import oracles  # noqa: E402
from PIL import ImageCms  # noqa: E402

from numbaconv import ConvProblem  # noqa: E402
from numbaconv.commands import filter as command  # noqa: E402
from numbaconv.commands.group import numbaconv  # noqa: E402
from numbaconv.errors import ShapeError  # noqa: E402
from numbaconv.teach import filters, photo, plot_filters  # noqa: E402

pytestmark = pytest.mark.teach

ONE = "im2col"
"""The lowering of most tests: one is compiled, whatever `auto` would take."""


def call(*arguments: object):
    """The result of the command, run in this process."""
    return testing.CliRunner().invoke(numbaconv, ["filter", "--algorithm", ONE, *map(str, arguments)])


def refused(*arguments: object) -> str:
    result = call(*arguments)
    assert (result.exit_code, type(result.exception)) == (2, SystemExit), result.output
    return result.output


@pytest.fixture
def small(tmp_path):
    """A photograph of 24 x 16 pixels."""
    pixels = np.random.default_rng(3).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "small.png")
    return tmp_path / "small.png"


# --------------------------------------------------------------------------------------------------------- the banks


def test_sobel_of_a_step_is_the_closed_form():
    step = np.zeros((7, 10))
    step[:, 4:] = 0.5
    across, down = filters.respond(step, "sobel", padding="valid", algorithm=ONE)
    expected = np.zeros((5, 8), np.float32)
    expected[:, 2:4] = 4 * 0.5  # the windows whose middle is column 3 or 4: 1 + 2 + 1 times the step
    np.testing.assert_array_equal(across, expected)
    np.testing.assert_array_equal(down, 0)
    across, down = filters.respond(step.T, "sobel", padding="valid", algorithm=ONE)
    np.testing.assert_array_equal(down, expected.T)
    np.testing.assert_array_equal(across, 0)


def test_sobel_of_a_slope_is_eight_times_the_slope():
    rows, columns = np.mgrid[:9, :11]
    across, down = filters.respond((3 * columns - 2 * rows) / 64, "sobel", padding="valid", algorithm=ONE)
    np.testing.assert_array_equal(across, 8 * 3 / 64)
    np.testing.assert_array_equal(down, -8 * 2 / 64)


@pytest.mark.parametrize("size", [None, 5, 16])
def test_gabor_kernels(size):
    bank = filters.bank("gabor", size)
    side = size or 11
    assert bank.kernels.shape == (96, 1, side, side)
    assert (bank.kernels.dtype, len(bank), len(set(bank.labels)), bank.columns) == (np.float32, 96, 96, 12)
    np.testing.assert_allclose(bank.kernels.sum(axis=(1, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(np.abs(bank.kernels).sum(axis=(1, 2, 3)), 1, rtol=1e-5)
    turned = bank.kernels.reshape(8, 6, 2, side, side)
    line, edge = turned[:, :, 0], turned[:, :, 1]
    np.testing.assert_allclose(line, line[..., ::-1, ::-1], atol=1e-7)
    np.testing.assert_allclose(edge, -edge[..., ::-1, ::-1], atol=1e-7)
    # A quarter turn: four orientations on, brighter below instead of to the right.
    np.testing.assert_allclose(turned[4:], turned[:4].swapaxes(-1, -2)[..., ::-1], atol=1e-6)
    np.testing.assert_allclose(line[0], line[0][..., ::-1, :], atol=1e-7)  # upright stripes
    assert (edge[0][..., side // 2, -(-side // 2)] > 0).all()  # that are brighter to the right
    if side > 10:  # in all directions the shortest waves end before the window does
        shortest = np.abs(line[:, 0])
        shortest[:, 1:-1, 1:-1] = 0
        assert shortest.max() < 0.02 * np.abs(line[:, 0]).max()
    wavelengths = np.geomspace(max(side / 4, 2.5), 0.75 * side, 6)
    assert [*bank.labels[:12:2]] == [f"0°, {wavelength:.1f} px, line" for wavelength in wavelengths]


@pytest.mark.parametrize("turn", range(8))
def test_stripes_excite_their_own_orientation_and_wavelength_most(turn):
    bank = filters.bank("gabor", 15)
    wavelength = np.geomspace(15 / 4, 0.75 * 15, 6)[2]
    y, x = np.mgrid[:45, :45]
    angle = np.pi * turn / 8
    stripes = 0.5 + 0.4 * np.cos(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / wavelength + 0.3)
    maps = filters.respond(stripes, bank, padding="valid", algorithm=ONE)
    energy = (maps.astype(np.float64) ** 2).mean(axis=(1, 2)).reshape(8, 6, 2).sum(axis=2)
    assert np.unravel_index(energy.argmax(), energy.shape) == (turn, 2)
    others = np.delete(energy[:, 2], turn)
    assert energy[turn, 2] > 2 * others.max()


@pytest.mark.parametrize("size", [None, 5, 8])
def test_blurs_are_means(size):
    bank = filters.bank("blur", size)
    np.testing.assert_allclose(bank.kernels.sum(axis=(1, 2, 3)), 1, rtol=1e-6)
    assert not bank.signed
    assert len(set(bank.labels)) == len(bank) == 6
    spread = (bank.kernels**2).sum(axis=(1, 2, 3))
    assert (np.diff(spread[:3]) < 0).all()  # each smooths more than the one before
    assert (np.diff(spread[3:]) < 0).all()
    even = filters.respond(np.full((20, 20), 0.25), bank, padding="valid", algorithm=ONE)
    np.testing.assert_allclose(even, 0.25, rtol=1e-5)


@pytest.mark.parametrize(("channels", "stride", "padding"), [(1, 1, "same"), (3, 2, (0, 1, 2, 3)), (3, 3, "valid")])
def test_responses_equal_plain_loops(rng, channels, stride, padding):
    image = rng.integers(0, 2, (9, 13, 3)).astype(np.uint8) * np.uint8(255)
    kernels = rng.integers(-4, 5, (5, channels, 4, 3))
    got = filters.respond(image, kernels, stride, padding, ONE)
    x = image / 255.0 if channels == 3 else image @ np.array([0.299, 0.587, 0.114])[:, None] / 255
    pads = {"same": (1, 1, 2, 1), "valid": (0, 0, 0, 0)}.get(padding, padding)
    exact = oracles.conv2d(x.transpose(2, 0, 1)[None], kernels, stride=(stride, stride), pads=pads)[0]
    assert got.dtype == np.float32
    if channels == 3:
        np.testing.assert_array_equal(got, exact)
    else:
        np.testing.assert_allclose(got, exact, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8", "uint16", "bool", ">f4"])
def test_kernels_of_a_file(tmp_path, dtype):
    kernels = (np.arange(2 * 3 * 4 * 5) % 7).reshape(2, 3, 4, 5).astype(dtype)
    np.save(tmp_path / "k.npy", np.asfortranarray(kernels))
    bank = filters.bank(str(tmp_path / "k.npy"))
    assert bank.kernels.dtype == np.float32
    np.testing.assert_array_equal(bank.kernels, kernels.astype(np.float32))
    assert (bank.name, bank.columns, list(bank.labels)) == ("k.npy", 2, ["kernel 0", "kernel 1"])
    np.save(tmp_path / "k.npy", kernels[0])
    assert filters.bank(str(tmp_path / "k.npy")).kernels.shape == (3, 1, 4, 5)


def test_the_kernels_of_alexnet_stand_eight_by_twelve(tmp_path):
    np.save(tmp_path / "k.npy", np.zeros((96, 3, 11, 11), np.float32))
    assert filters.bank(str(tmp_path / "k.npy")).columns == 12


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 3)), "the shape (oc, kh, kw) or (oc, ic, kh, kw); got (3, 3)"),
        (np.zeros((1, 1, 1, 3, 3)), "got (1, 1, 1, 3, 3)"),
        (np.zeros(()), "got ()"),
        (np.zeros((8, 2, 3, 3)), "1 channel (grey levels) or 3 (red, green, blue); got 2"),
        (np.zeros((0, 3, 3)), "there is no kernel in the shape (0, 1, 3, 3)"),
        (np.zeros((4, 3, 0, 3)), "there is no kernel"),
        (np.zeros((1, 3, 3), complex), "real numbers; got dtype complex128"),
        (np.zeros((1, 3, 3), "U3"), "got dtype <U3"),
        (np.zeros((1, 3, 3), "M8[s]"), "got dtype datetime64[s]"),
        (np.full((1, 3, 3), np.nan), "not a finite number"),
        (np.full((1, 3, 3), -np.inf), "not a finite number"),
        (np.full((1, 3, 3), 1e39), "not a finite number in float32"),
    ],
)
def test_a_file_with_other_arrays(tmp_path, small, array, message):
    np.save(tmp_path / "k.npy", array)
    assert message in refused(small, "--bank", tmp_path / "k.npy", "--out", tmp_path / "o.png")
    assert not (tmp_path / "o.png").exists()


def test_a_file_that_is_no_array(tmp_path, small):
    path = tmp_path / "k.npy"

    def said() -> str:
        return refused(small, "--bank", path, "--out", tmp_path / "o.png")

    assert "No such file" in said()
    path.write_bytes(b"")
    assert "is not an array of numbers as numpy.save writes it" in said()
    path.write_bytes(b"kernels")
    assert "is not an array" in said()
    np.save(path, np.ones((1, 3, 3)))
    path.write_bytes(path.read_bytes()[:-8])
    assert "is not an array" in said()
    np.save(path, np.array([print, None], object), allow_pickle=True)
    assert "is not an array" in said()
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones((1, 3, 3)))
    path.write_bytes(buffer.getvalue())
    assert "is an archive" in said()
    path.unlink()
    path.mkdir()
    assert "Is a directory" in said()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--bank", "sobl"), "unknown bank 'sobl'; known: sobel, gabor, blur"),
        (("--kernel-size", 5), "'sobel' have the size they have"),
        (("--bank", "gabor", "--kernel-size", 4), "'gabor' must be 5 to 255; got 4"),
        (("--bank", "blur", "--kernel-size", 256), "got 256"),
        (("--bank", "gabor", "--padding", "valid", "--kernel-size", 17), "the kernel 17x17"),
        (("--padding", "some"), "padding must be"),
        (("--padding", "1,2,3"), "padding must be"),
        (("--padding", "-1"), "must not be negative"),
        (("--stride", 0), "'--stride'"),
        (("--maps", 0), "'--maps'"),
        (("--size", 0), "'--size'"),
        (("--algorithm", "conv1x1"), "the kernel is 3x3, not 1x1"),
        (("--padding", 10**6), "choose a smaller --size"),
    ],
)
def test_wrong_input_gets_a_message_and_exit_code_2(tmp_path, small, arguments, message):
    assert message in refused(small, "--out", tmp_path / "o.png", *arguments)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 4)), "got shape (4, 4, 4)"),
        (np.zeros(4), "got shape (4,)"),
        (np.zeros((0, 4)), "got shape (0, 4, 3)"),
        (np.zeros((4, 4), int), "got dtype int64"),
    ],
)
def test_an_image_that_is_none(image, message):
    with pytest.raises(filters.BankError) as raised:
        filters.respond(image, "sobel")
    assert message in str(raised.value)
    with pytest.raises(ShapeError, match="the kernel 3x3"):
        filters.respond(np.zeros((2, 2)), "sobel", padding=0)


# ------------------------------------------------------------------------------------------------------- photographs


def test_the_photograph_that_ships():
    pixels = photo.photograph()
    assert (pixels.shape, pixels.dtype) == ((160, 240, 3), np.uint8)
    assert pixels.std() > 30
    np.testing.assert_array_equal(photo.read_photograph(photo.photograph_path()), (pixels / np.float32(255)))
    assert "CC0" in (photo.photograph_path().parent / "LICENSES.md").read_text(encoding="utf-8")


RED, HALF = (200, 40, 80), (120, 120, 120)


def of_mode(mode: str):
    """(a picture of two pixels in a mode, what it looks like in red, green and blue)."""
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), HALF)
    clear = Image.new("RGBA", (2, 1), (*RED, 255))
    clear.putpixel((1, 0), (0, 0, 0, 51))  # a fifth of black on white
    level = round(0.299 * RED[0] + 0.587 * RED[1] + 0.114 * RED[2])
    coloured, plain, seen = [RED, HALF], [(level,) * 3, HALF], [RED, (204,) * 3]
    wide = np.array([[0, 65535 * 3 // 5]])
    match mode:
        case "1":
            return Image.fromarray(np.array([[True, False]])), [(255,) * 3, (0,) * 3]
        case "P":
            return image.quantize(2), coloured
        case "P, transparent":
            paletted = image.quantize(2)
            paletted.info["transparency"] = paletted.getpixel((1, 0))
            return paletted, [RED, (255,) * 3]
        case "L, transparent":
            grey = image.convert("L")
            grey.info["transparency"] = HALF[0]
            return grey, [(level,) * 3, (255,) * 3]
        case "LA" | "La":
            return clear.convert("LA").convert(mode), [(level,) * 3, (204,) * 3]
        case "PA":
            return image.quantize(2).convert("PA"), coloured
        case "RGBA" | "RGBa":
            return clear.convert(mode), seen
        case "LAB":
            lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB"), coloured
        case "I" | "F":
            return Image.fromarray(np.array([[1000, 3000]]).astype("int32" if mode == "I" else "float32")), [
                (0,) * 3, (255,) * 3
            ]  # fmt: skip
        case "I;16":
            return Image.fromarray(wide.astype(np.uint16)), [(0,) * 3, (153,) * 3]
        case "I;16B":
            return Image.frombytes("I;16B", (2, 1), wide.astype(">u2").tobytes()), [(0,) * 3, (153,) * 3]
        case "L":
            return image.convert("L"), plain
        case _:
            return image.convert(mode), coloured


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("1", "png"), ("1", "tiff"), ("L", "png"), ("L", "bmp"), ("L, transparent", "png"), ("LA", "png"),
        ("La", None), ("P", "png"), ("P", "gif"), ("P, transparent", "png"), ("PA", None), ("RGB", "png"),
        ("RGB", "webp"), ("RGB", "ppm"), ("RGBX", "tiff"), ("RGBA", "png"), ("RGBA", "tiff"), ("RGBa", None),
        ("CMYK", "tiff"), ("CMYK", "jpeg"), ("YCbCr", "tiff"), ("YCbCr", "jpeg"), ("HSV", None), ("LAB", "tiff"),
        ("I", "tiff"), ("F", "tiff"), ("I;16", "png"), ("I;16", "tiff"), ("I;16B", "tiff"),
    ],
)  # fmt: skip
def test_every_mode_looks_as_it_should(monkeypatch, tmp_path, mode, kind):
    image, expected = of_mode(mode)
    path = tmp_path / f"picture.{kind}"
    if kind is None:  # no file has this mode
        monkeypatch.setattr(Image, "open", lambda path: image)
    else:
        image.save(path, **{"webp": {"lossless": True}, "jpeg": {"quality": 100, "subsampling": 0}}.get(kind, {}))
    pixels = photo.read_photograph(path)
    assert (pixels.dtype, pixels.shape) == (np.float32, (1, 2, 3))
    lossy = kind == "jpeg" or mode in ("YCbCr", "LAB", "HSV", "La", "RGBa")
    np.testing.assert_allclose(255 * pixels[0], expected, atol=4 if lossy else 0.51)


def test_sixteen_bits_are_kept(tmp_path):
    levels = np.arange(0, 65536, 257 * 16 + 1, dtype=np.uint16)[None]
    Image.fromarray(levels).save(tmp_path / "p.png")
    pixels = photo.read_photograph(tmp_path / "p.png")
    np.testing.assert_allclose(pixels[0, :, 1], levels[0] / 65535, rtol=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_exif_data_say(tmp_path, orientation):
    """The numbers of the EXIF standard: which side of the stored picture is its top, and which its left."""
    upright = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 10
    quarter = upright.transpose(1, 0, 2)
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: quarter, 6: quarter[::-1], 7: quarter[::-1, ::-1], 8: quarter[:, ::-1],
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "p.png", exif=exif)
    pixels = photo.read_photograph(tmp_path / "p.png")
    np.testing.assert_array_equal(np.rint(255 * pixels), upright)


def test_of_an_animation_the_first_frame(tmp_path):
    first, second = (Image.new("RGB", (5, 4), colour) for colour in (RED, HALF))
    first.save(tmp_path / "p.gif", save_all=True, append_images=[second])
    np.testing.assert_array_equal(np.rint(255 * photo.read_photograph(tmp_path / "p.gif")), np.full((4, 5, 3), RED))


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_large_pictures_are_scaled_and_small_ones_are_not(tmp_path, kind):
    path = tmp_path / f"p.{kind}"
    Image.new("RGB", (1200, 300), HALF).save(path)
    assert photo.read_photograph(path, 100).shape == (25, 100, 3)
    assert photo.read_photograph(path, 1200).shape == (300, 1200, 3)
    assert photo.read_photograph(path, 5000).shape == (300, 1200, 3)
    assert photo.read_photograph(path, 1).shape == (1, 1, 3)
    np.testing.assert_allclose(255 * photo.read_photograph(path, 100), 120, atol=1.5)


def test_bad_photographs(tmp_path, small):
    path = tmp_path / "bad.jpg"

    def said() -> str:
        return refused(path, "--out", tmp_path / "o.png")

    assert f"cannot read {path}: No such file" in said()
    path.write_bytes(b"")
    assert "is not a picture that Pillow knows" in said()
    path.write_text("no picture")
    assert "is not a picture that Pillow knows" in said()
    whole = photo.photograph_path().read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "truncated" in said()
    path.unlink()
    path.mkdir()
    assert "Is a directory" in said()
    assert not (tmp_path / "o.png").exists()
    Image.fromarray(np.array([[0, np.nan]], np.float32)).save(tmp_path / "nan.tiff")
    assert "pixels that are not finite" in refused(tmp_path / "nan.tiff", "--out", tmp_path / "o.png")


@pytest.mark.parametrize("kind", ["png", "gif", "tiff", "bmp", "jpeg", "webp"])
def test_damaged_photographs_are_read_or_refused_in_words(tmp_path, rng, kind):
    path = tmp_path / "p"
    Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(path, kind)
    whole = path.read_bytes()
    for _ in range(60):
        damaged = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            pixels = photo.read_photograph(path, 64)
        except photo.UnreadablePhotograph as refusal:
            assert str(path) in str(refusal)  # noqa: PT017
        else:
            assert np.isfinite(pixels).all()


def test_a_picture_that_is_a_bomb(monkeypatch, tmp_path, small):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "exceeds limit" in refused(small, "--out", tmp_path / "o.png")


# ------------------------------------------------------------------------------------------------------- the command


def test_what_is_printed_and_drawn(tmp_path, small):
    out = tmp_path / "o.png"
    result = call(small, "--bank", "gabor", "--out", out, "--stride", 2, "--padding", "0,1,2,3", "--num-threads", 1)
    assert result.exit_code == 0, result.output
    problem = ConvProblem(1, 1, 16, 24, 96, 11, 11, 2, 2, 0, 1, 2, 3)
    for words in (str(problem), f"{problem.macs / 1e6:.1f} M multiply-adds, 1 thread", "im2col", "GFLOP/s", "45.4 KiB"):
        assert words in result.output
    assert "drawn: " in result.output
    with Image.open(out) as drawn:
        assert drawn.format == "PNG"
        assert drawn.width == 12 * 130


def test_without_a_photograph_the_one_that_ships(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(command, "draw", lambda problem, x, bank, maps, count, title: seen.append((x, maps, title)))
    monkeypatch.setattr(command, "write", lambda figure, path: None)
    assert call("--out", tmp_path / "o.png").exit_code == 0
    ((x, maps, title),) = seen
    np.testing.assert_allclose(x[0, 0], photo.photograph() @ np.array([0.299, 0.587, 0.114]) / 255, atol=1e-6)
    np.testing.assert_allclose(maps, filters.respond(photo.photograph(), "sobel", algorithm=ONE), atol=1e-6)
    assert "the cat that ships" in title


@pytest.mark.parametrize("suffix", ["png", "svg", "PDF"])
def test_a_file_is_replaced_as_a_whole(monkeypatch, tmp_path, small, suffix):
    out, link = tmp_path / f"o.{suffix}", tmp_path / f"link.{suffix}"
    out.write_text("old")
    link.symlink_to(out)
    assert call(small, "--out", link).exit_code == 0
    assert link.is_symlink()
    assert out.stat().st_size > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([link.name, out.name, small.name])
    kept = out.read_bytes()

    def fail(old, new):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plot_filters.os, "replace", fail)
    result = call(small, "--out", out)
    assert result.exit_code == 1
    assert f"cannot write {out}: No space left on device" in result.output
    assert out.read_bytes() == kept
    assert len([*tmp_path.iterdir()]) == 3


def test_places_where_nothing_can_be_written(monkeypatch, tmp_path, small):
    assert "Missing option '--out'" in refused(small)
    assert "there is no directory" in refused(small, "--out", tmp_path / "no" / "o.png")
    assert "is a directory" in refused(small, "--out", tmp_path)
    assert "a picture's name ends with .png, .svg, .pdf" in refused(small, "--out", tmp_path / "o.jpg")
    assert "is the photograph itself" in refused(small, "--out", small)
    monkeypatch.setattr(command.os, "access", lambda path, mode: path != tmp_path.resolve())
    (tmp_path / "o.png").write_text("old")
    assert "its directory cannot be written" in refused(small, "--out", tmp_path / "o.png")
    monkeypatch.setattr(command.os, "access", lambda path, mode: False)
    assert "o.png cannot be written" in refused(small, "--out", tmp_path / "o.png")


@pytest.mark.parametrize(("library", "name"), [("PIL", "Pillow"), ("matplotlib", "matplotlib")])
def test_without_the_libraries_of_the_extra(monkeypatch, tmp_path, small, library, name):
    monkeypatch.setitem(sys.modules, library, None)
    message = f"numbaconv filter needs {name}; pip install 'numbaconv[teach]'"
    assert message in refused(small, "--out", tmp_path / "o.png")


def test_arrays_without_pillow(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"reading a photograph needs Pillow; pip install 'numbaconv\[teach\]'"):
        photo.photograph()


# ------------------------------------------------------------------------------------------------------- the picture


def test_which_maps_are_shown():
    assert plot_filters.shown(96, 12) == [0, 9, 17, 26, 35, 43, 52, 60, 69, 78, 86, 95]  # not all of one column
    assert plot_filters.shown(5, 3) == [0, 2, 4]
    assert plot_filters.shown(2, 12) == [0, 1]
    assert plot_filters.shown(7, 1) == [0]
    for count in range(1, 97):
        assert len(set(plot_filters.shown(96, count))) == count


@pytest.mark.parametrize(
    ("sizes", "rows", "columns"),
    [
        ({"pad_top": 1, "pad_left": 2}, slice(1, 6), slice(2, 9)),
        ({"pad_top": 2, "sh": 2}, slice(1, 4), slice(0, 7)),
        ({}, slice(0, 5), slice(0, 7)),
        ({"kh": 9, "pad_top": 4, "pad_bottom": 4}, slice(None), slice(0, 7)),  # no window lies inside
    ],
)
def test_the_interior_sees_no_padding(sizes, rows, columns):
    problem = ConvProblem(**{"mb": 1, "ic": 1, "ih": 7, "iw": 9, "oc": 1, "kh": 3, "kw": 3} | sizes)
    assert plot_filters.interior(problem) == (rows, columns)


def test_the_scale_of_maps():
    assert plot_filters.scale_of(np.zeros((2, 3))) == 1
    assert plot_filters.scale_of(np.full((2, 3), -0.25)) == 0.25
    one = np.zeros((30, 30))
    one[3, 4] = -5
    assert plot_filters.scale_of(one) == 5


@pytest.mark.parametrize(
    ("kernels", "count", "shape", "cells"),
    [((7, 1, 3, 3), 5, (16, 24), 5), ((1, 3, 1, 1), 12, (1, 1), 1), ((30, 3, 2, 7), 9, (5, 300), 9)],
)
def test_what_the_picture_has(rng, kernels, count, shape, cells):
    weights = rng.standard_normal(kernels).astype(np.float32)
    bank = filters.Bank("mine", weights, [f"kernel {n}" for n in range(len(weights))], columns=4)
    x = rng.random((1, kernels[1], *shape), dtype=np.float32)
    problem = ConvProblem.from_arrays(x, weights, padding="same")
    maps = rng.standard_normal(problem.output_shape[1:]).astype(np.float32)
    figure = plot_filters.draw(problem, x, bank, maps, count, "photo_of_$5^^$.png")
    axes = [one for one in figure.axes if one.get_visible()]
    assert len(axes) == 2 + cells + 1  # input, kernels, maps, scale
    titles = [one.get_title() for one in axes]
    assert titles[0].startswith(f"input: {shape[1]} x {shape[0]} pixels")
    assert titles[1].startswith(f"{len(weights)} kernel")
    shown = plot_filters.shown(len(weights), count)
    assert titles[2:-1] == [f"kernel {number}" for number in shown]
    for number, one in zip(shown, axes[2:-1], strict=True):
        np.testing.assert_array_equal(one.images[0].get_array(), maps[number])
        low, high = one.images[0].get_clim()
        assert low == -high  # white is 0
    frames = [patch for patch in axes[1].patches if patch.get_linewidth() > 1]
    assert len(frames) == (cells if cells < len(weights) else 0)
    written = io.BytesIO()
    figure.savefig(written)
    assert written.tell() > 1000


def test_edges_have_a_strength():
    x = np.zeros((1, 1, 9, 9), np.float32)
    x[..., 4:] = 1
    bank = filters.bank("sobel")
    problem = ConvProblem.from_arrays(x, bank.kernels)
    maps = np.stack([np.full((7, 7), 3.0), np.full((7, 7), -4.0)])
    figure = plot_filters.draw(problem, x, bank, maps, 12, "")
    strength = next(one for one in figure.axes if one.get_title().startswith("edge strength"))
    np.testing.assert_array_equal(strength.images[0].get_array(), 5)
