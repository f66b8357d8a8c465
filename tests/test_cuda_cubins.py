"""Compiled kernels on disk: what they are known by, and that nothing is compiled twice."""

from __future__ import annotations

import struct

import pytest
from fake_driver import fresh, scale_kernel  # noqa: F401
from numba import types

from numbaconv import jit_cuda
from numbaconv.devices import cubins
from numbaconv.devices.arguments import Parameters
from numbaconv.errors import DeviceUnavailable
from numbaconv.jit_cuda import Kernel, Word, pointer


def test_two_kernels_of_one_name_are_refused():
    first = cubins.identity(scale_kernel(name="same"))
    assert cubins.identity(scale_kernel(name="same")) == first, "a factory's product, made anew"
    for other in (scale_kernel(name="same", times=3), scale_kernel(8, "same")):
        with pytest.raises(ValueError, match="two different kernels are called 'same'"):
            cubins.identity(other)


def word(size):
    def twin(thread, value):
        return value + size

    return Word("add", lambda: None, twin)


def test_identity_sees_what_words_close_over():
    def made(name, size, inner=1):
        add, helper = word(size), jit_cuda.Function(lambda x: x * inner)

        def kernel(a):
            a[0] = add(helper(1))

        return Kernel(name, kernel, types.void(pointer(4)), 1)

    digests = {cubins.identity(made(f"k{n}", *sizes)) for n, sizes in enumerate([(1,), (2,), (1, 2)])}
    assert len(digests) == 3
    cubins.identity(made("k", 1))
    for sizes in ((2,), (1, 2)):
        with pytest.raises(ValueError, match="two different kernels"):
            cubins.identity(made("k", *sizes))


def test_code_is_never_newer_than_the_device_or_the_toolkit():
    known = [(7, 5), (8, 0), (8, 6), (9, 0), (10, 0)]
    wanted = {(7, 5): (7, 5), (8, 0): (8, 0), (8, 7): (8, 6), (8, 9): (8, 6), (9, 0): (9, 0), (10, 3): (10, 0)}
    for cc, target in wanted.items():
        assert cubins.architecture(cc, known) == target
    for cc in ((7, 0), (12, 0)):
        with pytest.raises(DeviceUnavailable, match=rf"no code for compute capability {cc[0]}\.{cc[1]}"):
            cubins.architecture(cc, known)


@pytest.mark.parametrize("code", [b"", b"text", b"\x7fELF\x02\x01", b"\x7fELF\x02\x01" + b"\xff" * 100], ids=len)
def test_what_is_no_cubin(code):
    with pytest.raises(ValueError, match="ELF"):
        cubins.entry_name(code)


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setattr(cubins.jit, "cache_directory", lambda: tmp_path)
    return tmp_path / "cubins"


def refuse(*arguments):
    raise AssertionError("compiled again")


@pytest.mark.compiler
@pytest.mark.parametrize("cc", [(8, 0), (8, 9), (9, 0)], ids=str)
def test_a_cubin_is_compiled_once(folder, monkeypatch, cc):
    made = cubins.build(scale_kernel(), cc)
    assert made.code[:4] == b"\x7fELF"
    assert "scale" in made.entry
    assert made.entry.encode() in made.code
    monkeypatch.setattr(cubins, "_compile", refuse)
    assert cubins.build(scale_kernel(), cc) is made
    monkeypatch.setattr(cubins, "_built", {})
    assert cubins.build(scale_kernel(), cc) == made
    (file,) = folder.iterdir()
    assert file.name.startswith(f"scale-sm_{cc[0]}{cc[1]}-")
    with pytest.raises(AssertionError, match="again"):
        cubins.build(scale_kernel(), (7, 5))
    monkeypatch.setattr(cubins, "_built", {})
    monkeypatch.setattr(cubins, "tools", lambda: "nvJitLink of tomorrow")
    with pytest.raises(AssertionError, match="again"):
        cubins.build(scale_kernel(), cc)


@pytest.mark.compiler
@pytest.mark.parametrize(
    "damage", [lambda d: d[:-9], lambda d: b"", lambda d: d[:400] + b"x" + d[401:], lambda d: b"x"]
)
def test_a_damaged_file_is_replaced(folder, monkeypatch, damage):
    made = cubins.build(scale_kernel(), (8, 0))
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    monkeypatch.setattr(cubins, "_built", {})
    monkeypatch.setattr(cubins, "_compile", lambda kernel, cc: made.code)
    if damage(whole):
        with pytest.warns(RuntimeWarning, match="damaged and will be replaced"):
            assert cubins.build(scale_kernel(), (8, 0)) == made
    else:
        assert cubins.build(scale_kernel(), (8, 0)) == made
    assert file.read_bytes() == whole
    assert list(folder.iterdir()) == [file]


def test_nowhere_to_write(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr(cubins, "entry_name", lambda code: "entry")
    monkeypatch.setattr(cubins, "_compile", lambda kernel, cc: b"code")
    monkeypatch.setattr(cubins.jit, "cache_directory", lambda: tmp_path / "file")
    with pytest.warns(RuntimeWarning, match="could not cache"):
        assert cubins.build(scale_kernel(), (8, 0)) == (b"code", "entry")
    monkeypatch.setattr(cubins.jit, "cache_directory", lambda: None)
    monkeypatch.setattr(cubins, "_built", {})
    assert cubins.build(scale_kernel(), (8, 0)) == (b"code", "entry")


def test_no_compiler_is_a_missing_device(folder, monkeypatch):
    monkeypatch.setattr(cubins, "supported", lambda: (_ for _ in ()).throw(OSError("no libnvrtc")))
    monkeypatch.setattr(jit_cuda, "cuda_missing", lambda: "numba-cuda cannot compile")
    with pytest.raises(DeviceUnavailable, match="scale has to be compiled: numba-cuda cannot compile; pip install"):
        cubins.build(scale_kernel(), (8, 0))
    monkeypatch.setattr(jit_cuda, "cuda_missing", lambda: None)
    with pytest.raises(OSError, match="no libnvrtc"):
        cubins.build(scale_kernel(), (8, 0))


@pytest.mark.compiler
def test_the_parameters_are_the_codes():
    """What is packed is what PTX asks for: as many, as wide."""
    kernel = scale_kernel(8, "wide")
    ptx = jit_cuda.cuda_compile(kernel.function, kernel.signature, (8, 0), kernel.threads)
    widths = [
        line.split()[1][2:] for line in ptx.partition(".entry")[2].partition(")")[0].splitlines() if ".param" in line
    ]
    letters = Parameters(kernel).layout.format.lstrip("@")
    assert [8 * struct.calcsize(letter) for letter in letters] == [int(width) for width in widths]
