"""AMX on machines without it: its machine code is read, never run; permission is asked for once, or refused."""

from __future__ import annotations

import platform

import numpy as np
import pytest
from llvmlite import binding as llvm
from llvmlite import ir
from test_widths import innermost_loops

from numbaconv.gemm.arithmetic import CHAINS
from numbaconv.gemm.pairs import Pairs
from numbaconv.gemm.tiles import CONFIGURATION, Tiles, multiply_tiles
from numbaconv.simd import BYTES, I64

X86 = platform.machine().lower() in ("x86_64", "amd64")


def assembly(rows: int, vectors: int, products: int) -> str:
    """A kernel for a processor with tiles, whatever this one is."""
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64, BYTES, BYTES, BYTES]), "kernel")
    builder = ir.IRBuilder(function.append_basic_block())
    kc, a, b, c = function.args
    v = Pairs(builder, 16, True, True)
    words = Tiles(v)
    words.configure()
    for i, cells in enumerate(multiply_tiles(v, words, rows, vectors, CHAINS[products], kc, a, b)):
        for j, cell in enumerate(cells):
            v.store(builder.load(cell), v.at(c, (i * vectors + j) * v.bytes))
    words.release()
    builder.ret_void()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple("x86_64-unknown-linux-gnu")
    compiled = llvm.parse_assembly(str(module))
    compiled.verify()
    return target.create_target_machine("sapphirerapids", "+amx-tile,+amx-bf16", opt=2).emit_assembly(compiled)


def count(lines: list[str], word: str) -> int:
    return sum(line.split()[0] == word for line in lines)


@pytest.mark.skipif(not X86, reason="LLVM may have been built without x86")
@pytest.mark.parametrize(
    ("products", "rows", "vectors", "loads"),
    [(1, 32, 2, 4), (3, 32, 2, 8), (6, 32, 2, 14), (3, 16, 1, 4), (3, 17, 1, 6), (3, 7, 2, 6)],
)
def test_the_loop_over_k_is_tile_products(products, rows, vectors, loads):
    text = assembly(rows, vectors, products)
    (loop,) = [lines for lines in innermost_loops(text) if count(lines, "tdpbf16ps")]
    tiles = -(-rows // 16) * vectors
    assert count(loop, "tdpbf16ps") == tiles * products
    assert count(loop, "tileloadd") == loads
    assert not any("mm" in line for line in loop if not line.startswith(("td", "tile"))), "no other vector work"
    every = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    assert count(every, "tilezero") == count(every, "tilestored") == tiles
    assert count(every, "ldtilecfg") == count(every, "tilerelease") == 1


def test_every_tile_is_whole_in_the_configuration():
    data = np.frombuffer(CONFIGURATION, np.uint8)
    assert len(data) == 64
    assert data[0] == 1
    assert (data[16:32].view(np.uint16) == 64).all()
    assert (data[48:56] == 16).all()
    assert not data[1:16].any() | data[32:48].any() | data[56:].any()


MULTIPLY = """
import dataclasses, sys
import numpy as np
from numbaconv import machine
from numbaconv.devices import amx

asked = []
if sys.argv[1] != "as it is":
    real = machine.detect()
    told = frozenset({"amx-tile", "amx-bf16"}) if sys.argv[1] == "refused" else frozenset()
    features = real.features - {"avx512bf16"}
    pretended = dataclasses.replace(real, amx=told, features=features, vector_bits=512 if told else real.vector_bits)
    import numbaconv.gemm
    for module in list(sys.modules.values()):
        if getattr(module, "has_tiles", None) is not None and hasattr(module, "detect"):
            module.detect = lambda: pretended

    class Kernel:
        def __init__(self, *_, **__):
            pass

        def syscall(self, *arguments):
            asked.append(arguments)
            return -1

    amx.ctypes.CDLL = Kernel
import numbaconv as nc

a, b = np.full((50, 70), 1 + 2**-12, "f4"), np.ones((70, 40), "f4")
for precision in ("medium", "high"):
    for _ in range(2):
        got = nc.gemm(a, b, precision=precision)
        assert np.allclose(got, 70, rtol=5e-3)
    print(float(abs(got - 70 * (1 + 2**-12)).max()) < 1e-4)
    print(nc.explain("mb1ic64ih28oc64oh28kh3ph1", precision=precision).notes[0])
print(len(asked), asked[:1])
"""


def test_without_the_feature_float32_runs(python):
    lines = python(MULTIPLY, "missing").splitlines()
    assert lines[0] == lines[2] == "True"
    assert "this CPU has no AMX" in lines[1]
    assert "this CPU has no AMX" in lines[3]
    assert lines[4].startswith("0 "), "the kernel is not asked for what the CPU does not have"


@pytest.mark.skipif(platform.system() != "Linux" or not X86, reason="AMX needs Linux's permission on x86")
def test_without_the_permission_float32_runs(python):
    lines = python(MULTIPLY, "refused").splitlines()
    assert lines[0] == lines[2] == "True"
    assert "the kernel does not permit the use of AMX" in lines[1]
    assert "the kernel does not permit the use of AMX" in lines[3]
    assert lines[4] == "1 [(158, 4131, 18)]", "asked once, for the tiles' data"


def test_as_it_is_nothing_dies(python):
    assert python(MULTIPLY, "as it is", env={"NUMBACONV_BF16": None}).splitlines()[2] in ("True", "False")
