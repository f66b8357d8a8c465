"""Words for kernels that compute with tiles: AMX's registers of 16 rows x 64 bytes, or their twins in memory.

    A tile   16 rows of 16 pairs        C tile   16 rows of 16 float32        C += A · B:  16 x 16 x 32 multiply-adds
    B tile   16 pairs of 16 columns

A kernel is emitted through ``Tiles``; what computes is AMX, or plain float32 code on memory that behaves like it. So
all but the instructions themselves is tested on machines without them.
"""

from __future__ import annotations

import struct

from llvmlite import ir
from numba.core import cgutils

from numbaconv.gemm.pairs import Pairs
from numbaconv.simd import BYTES, I8, const

ROWS, ROW_BYTES, TILES = 16, 64, 8
TILE_BYTES = ROWS * ROW_BYTES
CONFIGURATION = struct.pack("<BB14x16H16B", 1, 0, *[ROW_BYTES] * TILES, *[0] * 8, *[ROWS] * TILES, *[0] * 8)
"""What ``ldtilecfg`` reads: every tile whole."""


def constant_bytes(builder, data: bytes, name: str):
    """The address of read-only bytes."""
    kind = ir.ArrayType(I8, len(data))
    known = cgutils.global_constant(builder, name, ir.Constant(kind, bytearray(data)))
    known.align = 64
    return builder.bitcast(known, BYTES)


class Tiles:
    """The tile registers of the CPU."""

    def __init__(self, v: Pairs):
        self.v, self.builder = v, v.builder

    def _call(self, name: str, *arguments):
        kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
        self.builder.call(self.v._function(f"llvm.x86.{name}", kind), arguments)

    @staticmethod
    def _number(tile: int):
        return ir.Constant(I8, tile)

    def configure(self):
        """Make every tile 16 x 64 bytes, on this thread."""
        self._call("ldtilecfg", constant_bytes(self.builder, CONFIGURATION, "tile_configuration"))

    def release(self):
        self._call("tilerelease")

    def zero(self, tile: int):
        self._call("tilezero", self._number(tile))

    def load(self, tile: int, address, step):
        """Rows, `step` bytes apart."""
        self._call("tileloadd64", self._number(tile), address, step)

    def store(self, tile: int, address, step):
        self._call("tilestored64", self._number(tile), address, step)

    def multiply(self, c: int, a: int, b: int):
        """c += a · b."""
        self._call("tdpbf16ps", *map(self._number, (c, a, b)))


class EmulatedTiles(Tiles):
    """The same in memory on the stack, by float32 multiply-adds. Each word is a function: unrolled it would be long."""

    def __init__(self, v: Pairs):
        super().__init__(v)
        with self.builder.goto_entry_block():
            memory = self.builder.alloca(ir.ArrayType(I8, TILES * TILE_BYTES))
            memory.align = 64
        self.memory = self.builder.bitcast(memory, BYTES)

    def configure(self):
        pass

    def release(self):
        pass

    def _tile(self, number: int):
        return self.v.at(self.memory, number * TILE_BYTES)

    def _word(self, emit, *arguments):
        """Call the function whose body `emit` writes, making it where the module has none yet."""
        module, name = self.builder.module, f"emulated_{emit.__name__.strip('_')}"
        function = module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
            function = ir.Function(module, kind, name)
            function.linkage = "internal"
            function.attributes.add("noinline")
            builder = ir.IRBuilder(function.append_basic_block())
            emit(Pairs(builder, self.v.lanes, self.v.has_fma, False), *function.args)
            builder.ret_void()
        self.builder.call(function, arguments)

    def zero(self, tile: int):
        self._word(_zero, self._tile(tile))

    def load(self, tile: int, address, step):
        self._word(_copy, address, step, self._tile(tile), const(ROW_BYTES))

    def store(self, tile: int, address, step):
        self._word(_copy, self._tile(tile), const(ROW_BYTES), address, step)

    def multiply(self, c: int, a: int, b: int):
        self._word(_multiply, *map(self._tile, (c, a, b)))


def _rows(v: Pairs, address, step=None):
    """For each row of a tile: its number, and its address."""
    step = const(ROW_BYTES) if step is None else step
    with cgutils.for_range(v.builder, const(ROWS)) as loop:
        yield loop.index, v.at(address, v.builder.mul(loop.index, step))


def _zero(v: Pairs, tile):
    for _, row in _rows(v, tile):
        v.store(v.zero, row)


def _copy(v: Pairs, source, source_step, target, target_step):
    for number, row in _rows(v, source, source_step):
        v.store(v.load(row), v.at(target, v.builder.mul(number, target_step)))


def _multiply(v: Pairs, c, a, b):
    for number, row in _rows(v, c):
        total = v.variable(v.load(row))
        pairs = v.at(a, v.builder.mul(number, const(ROW_BYTES)))
        for k, column in _rows(v, b):
            element = v.splat(v.load_scalar(v.at(pairs, v.builder.mul(k, const(4)))))
            v.builder.store(v.dot(v.builder.load(total), v.bits(element), v.bits(v.load(column))), total)
        v.store(v.builder.load(total), row)


def multiply_tiles(v: Pairs, words: Tiles, rows: int, vectors: int, chain, kc, a, b):
    """Emit the loop over steps of 32 terms of a 32 x 32 tile of C, or less; cells as the micro-kernel reads them.

    A's panel holds for each step each part: `rows` rows of 16 pairs; rows beyond them are read, and the sums dropped.
    B's holds for each step 16 pairs: of each part, `vectors` vectors. Neighbours in the chain share an operand's tiles.
    """
    builder, parts = v.builder, 1 + max(part for part, _ in chain)
    down, across = range(-(-rows // ROWS)), range(vectors)
    with builder.goto_entry_block():
        memory = builder.alloca(ir.ArrayType(I8, len(down) * ROWS * vectors * v.bytes))
        memory.align = 64
    result = builder.bitcast(memory, BYTES)
    a_part, b_row = rows * ROW_BYTES, parts * vectors * v.bytes
    a_now, b_now = v.variable(a), v.variable(b)
    for i in down:
        for j in across:
            words.zero(2 * i + j)
    with cgutils.for_range(builder, kc):
        a, b = builder.load(a_now), builder.load(b_now)
        loaded: tuple[int, int] | tuple[None, None] = (None, None)
        for of_a, of_b in chain:
            if of_b != loaded[1]:
                for j in across:
                    words.load(6 + j, v.at(b, (of_b * vectors + j) * v.bytes), const(b_row))
            if of_a != loaded[0]:
                for i in down:
                    words.load(4 + i, v.at(a, of_a * a_part + i * TILE_BYTES), const(ROW_BYTES))
            loaded = of_a, of_b
            for i in down:
                for j in across:
                    words.multiply(2 * i + j, 4 + i, 6 + j)
        builder.store(v.at(a, parts * a_part), a_now)
        builder.store(v.at(b, ROWS * b_row), b_now)
    for i in down:
        for j in across:
            words.store(2 * i + j, v.at(result, (i * ROWS * vectors + j) * v.bytes), const(vectors * v.bytes))
    return [[v._as(v.at(result, (i * vectors + j) * v.bytes), v.vector) for j in across] for i in range(rows)]
