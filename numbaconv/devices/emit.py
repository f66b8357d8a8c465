"""How the words of CUDA kernels are made: LLVM IR and PTX, through numba-cuda's way of generating code.

With the files that define words (``intrinsics``, ``register_tile``, ``tensor_cores``, Winograd's transforms) the only
one to rewrite for another code generator.
"""

from __future__ import annotations

import inspect

from llvmlite import ir
from numba import types

from numbaconv.jit_cuda import Word, cuda_intrinsic

FLOAT, I32, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
VOID = ir.VoidType()
GLOBAL, SHARED = 1, 3
MEMORY = object()
"""In an instruction's signature: whatever memory it is handed."""
VALUE = object()
"""In an instruction's signature: a float32, float64 or int32."""

REALS = {4: types.float32, 8: types.float64}
PTX = {"float": ("f32", "f", "0f00000000"), "double": ("f64", "d", "0d0000000000000000"), "i32": ("b32", "r", "0")}
"""PTX's type, constraint and zero of LLVM's types."""


def vector_of(itemsize: int) -> int:
    """How many elements are 16 bytes."""
    return 16 // itemsize


def itemsize_of(pointer) -> int:
    """Bytes of what a pointer points to."""
    return 8 if str(pointer.type.pointee) == "double" else 4


def element(memory) -> types.Type:
    """The type of memory's elements, from its own."""
    return memory.dtype


class Emit:
    """LLVM IR and PTX for one use of an instruction."""

    def __init__(self, context, builder):
        self.context, self.builder = context, builder

    def memory(self, kind, value):
        """The first element of an array, or of a kernel's pointer, as a pointer."""
        if isinstance(kind, types.CPointer):  # a kernel's pointers are to global memory
            return self.builder.addrspacecast(value, ir.PointerType(value.type.pointee, addrspace=GLOBAL))
        return self.context.make_array(kind)(self.context, self.builder, value).data

    def at(self, memory, index):
        index = ir.Constant(I64, index) if isinstance(index, int) else self.builder.sext(index, I64)
        return self.builder.gep(memory, [index], inbounds=True)

    def seen_as(self, pointer, kind):
        """The same place as a pointer to another type."""
        return self.builder.bitcast(pointer, ir.PointerType(kind, addrspace=pointer.type.addrspace))

    def load(self, pointer, count: int) -> list:
        """`count` neighbours in one access, aligned to their bytes together."""
        if count == 1:
            return [self.builder.load(pointer)]
        packed = self.seen_as(pointer, ir.VectorType(pointer.type.pointee, count))
        values = self.builder.load(packed, align=count * itemsize_of(pointer))
        return [self.builder.extract_element(values, ir.Constant(I32, lane)) for lane in range(count)]

    def store(self, values, pointer):
        """The opposite of ``load``."""
        kind = ir.VectorType(pointer.type.pointee, len(values))
        packed = ir.Constant(kind, ir.Undefined)
        for lane, value in enumerate(values):
            packed = self.builder.insert_element(packed, value, ir.Constant(I32, lane))
        self.builder.store(packed, self.seen_as(pointer, kind), align=len(values) * itemsize_of(pointer))

    def address(self, pointer, space):
        """A pointer as the number that PTX wants: 32 bits in shared memory, 64 in global."""
        if pointer.type.addrspace != space:
            pointer = self.builder.addrspacecast(pointer, ir.PointerType(pointer.type.pointee, addrspace=space))
        return self.builder.ptrtoint(pointer, I32 if space == SHARED else I64)

    def ptx(self, text, constraints, result=VOID, values=(), pure=False):
        """Inline PTX; `pure` where nothing but its result matters. All lanes of a warp run it together or none."""
        kind = ir.FunctionType(result, [value.type for value in values])
        code = ir.InlineAsm(kind, text, constraints, side_effect=not pure)
        return self.builder.call(code, values, attrs=("convergent",))

    def fabs(self, x):
        """``abs`` of a float32; NVVM refuses LLVM's own."""
        kind = ir.FunctionType(FLOAT, [FLOAT])
        return self.builder.call(self.builder.module.declare_intrinsic("llvm.nvvm.fabs.f", fnty=kind), [x])

    def tuple_of(self, kind, values):
        return self.context.make_tuple(self.builder, kind, values)


def instruction(result, *operands, twin, collective=False, itemsize=None):
    """Turn an emitter ``f(emit, *values) -> value or None`` into a word.

    Parameters
    ----------
    result : numba type, or function of the types of the operands
    operands
        Types, MEMORY or VALUE.
    twin : function
        ``twin(thread, *operands)`` is what the emulator does.
    collective : bool
        All 32 lanes of a warp do it together: ``twin(threads, operands) -> results or None`` is called once for them,
        with a list of each.
    itemsize : int, optional
        Of the elements of all MEMORY; other memory is a typing error.
    """

    def accepts(operand, kind):
        if operand is MEMORY:
            return itemsize is None or element(kind) == REALS[itemsize]
        return operand is not VALUE or kind in (types.float32, types.float64, types.int32)

    def decorate(emitter):
        def typing(typingctx, *given):
            if not all(map(accepts, operands, given)):
                return None
            taken = [
                kind if operand in (MEMORY, VALUE) else operand for operand, kind in zip(operands, given, strict=True)
            ]

            def codegen(context, builder, signature, values):
                emit = Emit(context, builder)
                values = [
                    emit.memory(kind, value) if operand is MEMORY else value
                    for operand, kind, value in zip(operands, signature.args, values, strict=True)
                ]
                return emitter(emit, *values) or context.get_dummy_value()

            return (result if isinstance(result, types.Type) else result(*taken))(*taken), codegen

        # numba-cuda reads the number of operands off the signature.
        names = ["typingctx", *(f"operand{number}" for number in range(len(operands)))]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        typing.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])
        typing.__name__ = emitter.__name__
        word = Word(emitter.__name__, lambda: cuda_intrinsic(typing), twin, emitter.__doc__)
        word.typing = typing  # what has no PTX in it can be compiled for a CPU too, and held against its twin
        word.collective = collective
        return word

    return decorate
