"""The tile of a depthwise convolution: the same code for lanes along a row and for lanes along the channels.

"Across" the tile its outputs follow one another, each in a vector of its own, and so do the inputs they read: positions
q. The taps along that axis are the *inner* ones; the *outer* ones shift the lanes (NCHW) or change the row (NHWC).
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils

from numbaconv.jit import intrinsic
from numbaconv.simd import BYTES, I32, I64, Lanes, const

GATHER, UNIT, PAIRS = 0, 1, 2
"""How a vector is read: element by element, as it lies, every other element of two vectors."""


class _Access:
    """Emits how a tile's vectors are read and written; see ``tile`` for the arguments."""

    def __init__(self, v: Lanes, reading: int, writing: int):
        self.v, self.reading, self.writing = v, reading, writing

    def places(self, address, step):
        """The addresses of all lanes, `step` bytes apart."""
        v, b = self.v, self.v.builder
        numbers = ir.VectorType(I64, v.lanes)
        steps = b.mul(v._splat(step, numbers), ir.Constant(numbers, list(range(v.lanes))))
        return b.inttoptr(b.add(v._splat(b.ptrtoint(address, I64), numbers), steps), ir.VectorType(BYTES, v.lanes))

    def gather(self, address, step, mask):
        v = self.v
        places = ir.VectorType(BYTES, v.lanes)
        kind = ir.FunctionType(v.vector, [places, I32, v.mask, v.vector])
        read = v._function(f"llvm.masked.gather.{v.suffix}.v{v.lanes}p0", kind)
        return v.builder.call(read, [self.places(address, step), ir.Constant(I32, v.itemsize), mask, v.zero])

    def write(self, value, address, step, mask):
        v = self.v
        if self.writing == UNIT:
            return v.masked_store(value, address, mask)
        kind = ir.FunctionType(ir.VoidType(), [v.vector, ir.VectorType(BYTES, v.lanes), I32, v.mask])
        write = v._function(f"llvm.masked.scatter.{v.suffix}.v{v.lanes}p0", kind)
        return v.builder.call(write, [value, self.places(address, step), ir.Constant(I32, v.itemsize), mask])

    def masks(self, column, columns, every):
        """Lanes whose columns, `every` apart from `column` on, lie within the row of `columns`: a mask a load."""
        v, b = self.v, self.v.builder
        before, behind = b.neg(column), b.sub(columns, column)
        if self.reading == PAIRS:
            next_lanes = (b.sub(count, const(v.lanes)) for count in (before, behind))
            return v.between(before, behind), v.between(*next_lanes)
        if self.reading == UNIT:
            return (v.between(before, behind),)

        def lanes(count):
            positive = b.select(b.icmp_signed(">", count, const(0)), count, const(0))
            return b.sdiv(b.add(positive, b.sub(every, const(1))), every)

        return (v.between(lanes(before), lanes(behind)),)

    def read(self, address, step, masks):
        """The vector at an address; of PAIRS that and the one an element further on."""
        v = self.v
        if self.reading == GATHER:
            return (self.gather(address, step, masks[0]),)
        halves = [v.masked_load(v.at(address, i * v.bytes), mask) for i, mask in enumerate(masks)]
        if self.reading == UNIT:
            return halves
        numbers = ir.VectorType(I32, v.lanes)
        return [
            v.builder.shuffle_vector(*halves, ir.Constant(numbers, [2 * i + odd for i in range(v.lanes)]))
            for odd in (0, 1)
        ]


@intrinsic(prefer_literal=True)
def tile(typingctx, itemsize, lanes, fused, reading, writing, spread, taps, stride, size, edge, arguments):
    """One tile: `size` vectors of outputs.

    Literals: `spread`, whether weights and bias are vectors (else scalars); `taps` and `stride` across the tile (taps
    0: any number, in a loop, and any stride); `edge`, whether some of the tile or of its input may not exist.
    Arguments, addresses and steps in bytes:

    outer, x_outer, w_outer   taps along the other axis, their steps in the input and the weights
    inner, x_inner, w_inner   taps across the tile (`inner` is `taps` unless that is 0) and their steps
    x, x_step, x_lane         tap 0 of output 0, lane 0 (in memory or not); steps between positions, between lanes
    apart                     positions q between outputs across the tile (`stride` unless that is 0)
    low, high                 of the positions q across the tile, those that exist (edge only)
    column, columns           where lane 0 of outer tap 0 lies in its row, and the row's length: others are zero
    dilation, every           columns between outer taps and between lanes
    w, bias, limits           the weights, where the sums begin, the two bounds
    out, out_step, out_lane   output 0, lane 0; steps between outputs and between lanes
    count, width              outputs and lanes that are written
    """
    taps_, size_, across = taps.literal_value, size.literal_value, stride.literal_value

    def codegen(context, builder, signature, args):
        (outer, x_outer, w_outer, inner, x_inner, w_inner, x, x_step, x_lane, apart, low, high, column, columns,
         dilation, every, w, bias, limits, out, out_step, out_lane, count, width) = (
            value if value.type == I64 else builder.sext(value, I64)
            for value in cgutils.unpack_tuple(builder, args[-1])
        )  # fmt: skip
        v = Lanes(builder, itemsize.literal_value, lanes.literal_value, bool(fused.literal_value))
        t = _Access(v, reading.literal_value, writing.literal_value)
        at_edge = bool(edge.literal_value)
        x, w, bias, limits, out = (v.pointer(address) for address in (x, w, bias, limits, out))
        writable = v.first(width)

        def weight(place):
            return v.load(place) if spread.literal_value else v.splat(v.load_scalar(place))

        start = v.masked_load(bias, writable) if spread.literal_value else v.splat(v.load_scalar(bias))
        sums = [v.variable(start) for _ in range(size_)]

        def add(cell, factor, value):
            builder.store(v.fma(factor, value, builder.load(cell)), cell)

        def when(q, body):
            """Emit `body`, to be run where position `q` exists."""
            if not at_edge:
                return body()
            exists = builder.and_(builder.icmp_signed(">=", q, low), builder.icmp_signed("<", q, high))
            with builder.if_then(exists):
                body()

        def unrolled(u, ways):
            """Outer tap `u`, and of PAIRS the next as well: each input vector is read once."""
            place = v.at(x, builder.mul(u, x_outer))
            masks = t.masks(builder.add(column, builder.mul(u, dilation)), columns, every)
            row = v.at(w, builder.mul(u, w_outer))
            weights = [
                [weight(v.at(v.at(row, builder.mul(w_outer, const(way))), builder.mul(w_inner, const(k))))
                 for k in range(taps_)] for way in range(ways)
            ]  # fmt: skip
            for q in range((size_ - 1) * across + taps_):
                reaching = [(cell, q - i * across) for i, cell in enumerate(sums) if 0 <= q - i * across < taps_]

                def use(q=q, reaching=reaching):
                    values = t.read(v.at(place, builder.mul(x_step, const(q))), x_lane, masks)
                    for way in range(ways):
                        for cell, k in reaching:
                            add(cell, weights[way][k], values[way])

                if reaching:
                    when(const(q), use)

        def looped(u):
            masks = t.masks(builder.add(column, builder.mul(u, dilation)), columns, every)
            with cgutils.for_range(builder, inner) as loop:
                shift = builder.mul(loop.index, x_inner)
                place = v.at(x, builder.add(builder.mul(u, x_outer), builder.mul(shift, x_step)))
                factor = weight(v.at(w, builder.add(builder.mul(u, w_outer), builder.mul(loop.index, w_inner))))
                for i, cell in enumerate(sums):

                    def use(i=i, cell=cell):
                        step = builder.mul(x_step, builder.mul(apart, const(i)))
                        add(cell, factor, t.read(v.at(place, step), x_lane, masks)[0])

                    when(builder.add(shift, builder.mul(apart, const(i))), use)

        ways = 2 if t.reading == PAIRS and taps_ else 1
        with cgutils.for_range(builder, builder.sdiv(outer, const(ways))) as loop:
            if taps_:
                unrolled(builder.mul(loop.index, const(ways)), ways)
            else:
                looped(loop.index)
        if ways == 2:
            with builder.if_then(builder.trunc(outer, ir.IntType(1))):
                unrolled(builder.sub(outer, const(1)), 1)

        least, most = (v.splat(v.load_scalar(v.at(limits, i * v.itemsize))) for i in range(2))
        for i, cell in enumerate(sums):

            def put(i=i, cell=cell):
                place = v.at(out, builder.mul(out_step, const(i)))
                t.write(v.clamp(builder.load(cell), least, most), place, out_lane, writable)

            if at_edge:
                with builder.if_then(builder.icmp_signed("<", const(i), count)):
                    put()
            else:
                put()
        return context.get_dummy_value()

    return types.void(itemsize, lanes, fused, reading, writing, spread, taps, stride, size, edge, arguments), codegen
