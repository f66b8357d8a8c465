"""LLVM vector IR in a few words, and the intrinsics built on them that every kernel shares.

All addresses are int64 byte addresses and all strides are in bytes: a kernel takes nothing else, so one
compiled driver serves every element type. `Lanes` is the vocabulary of a kernel generator; a generator is an
ordinary Python function that emits straight-line vector code through it.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils

from numbaconv.jit import intrinsic

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
BYTES = I8.as_pointer()
ELEMENTS = {4: ir.FloatType(), 8: ir.DoubleType()}


def const(value: int) -> ir.Constant:
    return ir.Constant(I64, value)


class Lanes:
    """Vectors of `lanes` floats of `itemsize` bytes, as seen by the IR builder of one function."""

    def __init__(self, builder, itemsize: int, lanes: int, fma: bool = True):
        self.builder, self.itemsize, self.lanes, self.has_fma = builder, itemsize, lanes, fma
        self.element = ELEMENTS[itemsize]
        self.vector = ir.VectorType(self.element, lanes)
        self.mask = ir.VectorType(I1, lanes)
        self.bytes = itemsize * lanes
        self.suffix = f"v{lanes}f{8 * itemsize}"
        self.zero = ir.Constant(self.vector, [0.0] * lanes)

    # -- addresses

    def at(self, address, offset):
        """`address` + `offset` bytes (an int, or an IR int64)."""
        return self.builder.gep(address, [const(offset) if isinstance(offset, int) else offset])

    def pointer(self, address):
        return self.builder.inttoptr(address, BYTES)

    def _as(self, address, kind):
        return self.builder.bitcast(address, kind.as_pointer())

    # -- memory

    def load(self, address, align: int | None = None):
        return self.builder.load(self._as(address, self.vector), align=align or self.itemsize)

    def store(self, value, address, align: int | None = None):
        self.builder.store(value, self._as(address, self.vector), align=align or self.itemsize)

    def load_scalar(self, address):
        return self.builder.load(self._as(address, self.element), align=self.itemsize)

    def store_scalar(self, value, address):
        self.builder.store(value, self._as(address, self.element), align=self.itemsize)

    def first(self, count):
        """The mask whose lanes below `count` (int64) are set."""
        numbers = ir.VectorType(I32, self.lanes)
        count = self._splat(self.builder.trunc(count, I32), numbers)
        return self.builder.icmp_signed("<", ir.Constant(numbers, list(range(self.lanes))), count)

    def between(self, low, high):
        """The mask whose lanes from `low` up to `high` (int64) are set."""
        return self.builder.and_(self.first(high), self.builder.not_(self.first(low)))

    def masked_load(self, address, mask):
        """The lanes of `mask`; the others are zero and their memory is not touched."""
        kind = ir.FunctionType(self.vector, [BYTES, I32, self.mask, self.vector])
        load = self._function(f"llvm.masked.load.{self.suffix}.p0", kind)
        return self.builder.call(load, [address, ir.Constant(I32, self.itemsize), mask, self.zero])

    def masked_store(self, value, address, mask):
        kind = ir.FunctionType(ir.VoidType(), [self.vector, BYTES, I32, self.mask])
        store = self._function(f"llvm.masked.store.{self.suffix}.p0", kind)
        self.builder.call(store, [value, address, ir.Constant(I32, self.itemsize), mask])

    def prefetch(self, address, locality: int = 3):
        """Ask for the cache line at `address` (3: into every level, 2: into L2)."""
        kind = ir.FunctionType(ir.VoidType(), [BYTES, I32, I32, I32])
        fetch = self._function("llvm.prefetch.p0", kind)
        self.builder.call(fetch, [address, ir.Constant(I32, 0), ir.Constant(I32, locality), ir.Constant(I32, 1)])

    # -- arithmetic

    def fma(self, a, b, c):
        """a * b + c, fused where the machine can (a plain multiply and add elsewhere: libm's fma is slow)."""
        if not self.has_fma:
            return self.builder.fadd(self.builder.fmul(a, b), c)
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        return self.builder.call(self._function(f"llvm.fma.{self.suffix}", kind), [a, b, c])

    def splat(self, scalar):
        return self._splat(scalar, self.vector)

    def _splat(self, scalar, kind):
        undefined = ir.Constant(kind, ir.Undefined)
        one = self.builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
        return self.builder.shuffle_vector(
            one, undefined, ir.Constant(ir.VectorType(I32, kind.count), [0] * kind.count)
        )

    def clamp(self, value, low, high):
        """Limit to [low, high]; a NaN stays a NaN."""
        value = self.builder.select(self.builder.fcmp_ordered("<", value, low), low, value)
        return self.builder.select(self.builder.fcmp_ordered(">", value, high), high, value)

    def sum(self, value):
        """The sum of all lanes, as a balanced tree."""
        kind = ir.FunctionType(self.element, [self.element, self.vector])
        reduce = self._function(f"llvm.vector.reduce.fadd.{self.suffix}", kind)
        return self.builder.call(reduce, [ir.Constant(self.element, -0.0), value], fastmath=("reassoc",))

    def transpose(self, rows):
        """`lanes` vectors -> the transpose of that square, in log2(lanes) stages of two-input shuffles."""
        rows, lanes, width = list(rows), self.lanes, self.lanes // 2
        while width:
            low = [i if not i & width else lanes + (i ^ width) for i in range(lanes)]
            high = [(i ^ width) if not i & width else lanes + i for i in range(lanes)]
            kind = ir.VectorType(I32, lanes)
            for i in range(lanes):
                if not i & width:
                    a, b = rows[i], rows[i | width]
                    rows[i] = self.builder.shuffle_vector(a, b, ir.Constant(kind, low))
                    rows[i | width] = self.builder.shuffle_vector(a, b, ir.Constant(kind, high))
            width //= 2
        return rows

    def variable(self, value):
        """A mutable cell (LLVM promotes it to a register)."""
        cell = cgutils.alloca_once(self.builder, value.type)
        self.builder.store(value, cell)
        return cell

    def _function(self, name, kind):
        return cgutils.get_or_insert_function(self.builder.module, kind, name)


def void(*args):
    """The signature of an intrinsic that returns nothing."""
    return types.void(*args)


@intrinsic
def invoke(typingctx, address, arguments):
    """Call the C function at `address` with a tuple of int64 arguments."""
    signature = types.void(types.int64, arguments)

    def codegen(context, builder, signature, args):
        address, packed = args
        values = cgutils.unpack_tuple(builder, packed)
        kind = ir.FunctionType(ir.VoidType(), [I64] * len(values))
        builder.call(builder.inttoptr(address, kind.as_pointer()), values)
        return context.get_dummy_value()

    return signature, codegen


def _scalar_access(numba_type, ir_type, itemsize):
    """A (load, store) pair of intrinsics for one scalar type at a byte address."""

    @intrinsic
    def load(typingctx, address):
        def codegen(context, builder, signature, args):
            return builder.load(builder.inttoptr(args[0], ir_type.as_pointer()), align=itemsize)

        return numba_type(types.int64), codegen

    @intrinsic
    def store(typingctx, address, value):
        def codegen(context, builder, signature, args):
            builder.store(args[1], builder.inttoptr(args[0], ir_type.as_pointer()), align=itemsize)
            return context.get_dummy_value()

        return types.void(types.int64, numba_type), codegen

    return load, store


load_i64, store_i64 = _scalar_access(types.int64, I64, 8)
load_i32, store_i32 = _scalar_access(types.int32, I32, 4)
load_f32, store_f32 = _scalar_access(types.float32, ELEMENTS[4], 4)
load_f64, store_f64 = _scalar_access(types.float64, ELEMENTS[8], 8)


@intrinsic
def record_at(typingctx, address, dtype):
    """The NumPy record of `dtype` at an address: its fields read and write that memory."""
    record = dtype.dtype

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(record))

    return record(types.int64, dtype), codegen


@intrinsic(prefer_literal=True)
def array_at(typingctx, itemsize, address, count):
    """The `count` floats of `itemsize` bytes at an address, as a one-dimensional array."""
    array_type = types.Array({4: types.float32, 8: types.float64}[itemsize.literal_value], 1, "C")

    def codegen(context, builder, signature, args):
        _, address, count = args
        array = context.make_array(array_type)(context, builder)
        element = context.get_data_type(array_type.dtype)
        size = const(itemsize.literal_value)
        context.populate_array(
            array,
            data=builder.inttoptr(address, element.as_pointer()),
            shape=[count],
            strides=[size],
            itemsize=size,
            meminfo=None,
        )
        return array._getvalue()

    return array_type(itemsize, address, count), codegen


@intrinsic
def cycles(typingctx):
    """The processor's time stamp: a steady count, for shares of time within a call."""

    def codegen(context, builder, signature, args):
        counter = cgutils.get_or_insert_function(builder.module, ir.FunctionType(I64, []), "llvm.readcyclecounter")
        return builder.call(counter, [])

    return types.int64(), codegen


@intrinsic(prefer_literal=True)
def stack(typingctx, size):
    """The address of `size` bytes on the stack of the function that calls this."""

    def codegen(context, builder, signature, args):
        memory = cgutils.alloca_once(builder, ir.ArrayType(I8, size.literal_value))
        memory.align = 64
        return builder.ptrtoint(memory, I64)

    return types.int64(size), codegen


@intrinsic(prefer_literal=True)
def room(typingctx, size):
    """As ``stack``, for much of it: uninitialised, where Numba's zeros take LLVM minutes to compile."""

    def codegen(context, builder, signature, args):
        with builder.goto_entry_block():
            memory = builder.alloca(ir.ArrayType(I8, size.literal_value))
            memory.align = 64
        return builder.ptrtoint(memory, I64)

    return types.int64(size), codegen
