"""The five loops around the micro-kernel, compiled once for every element type, operand and result.

    loop 5   jc over n in steps of nc    a block of B's columns
    loop 4   pc over k in steps of kc    B's block is packed: kc x nc, for L2
    loop 3   ic over m in steps of mc    A's block is packed: mc x kc, for L2
    loop 2   jr over the block of B      one panel of B: nr columns
    loop 1   ir over the block of A      one panel of A: mr rows; the micro-kernel does mr x nr of C

An operand is packed before (weights, or by ``pack_*_task``, all threads together) and shared, or packed by
the task that uses it, into scratch that stays in its core's cache. Tasks cut C into m_tasks x n_tasks rectangles;
an axis that is cut has its own operand packed by the tasks, the other one shared: nothing is packed twice.
The order of the sums over k is the same whatever the tasks, so are the bits.

With bf16 arithmetic k counts steps of several terms, packers are wrapped by splitters, and the whole product is done
again in float32 where ``guard.py`` says so.
"""

from __future__ import annotations

from numbaconv.devices.threads import fork_join
from numbaconv.gemm.axes import offset, within
from numbaconv.gemm.call import CALL, FIELD, RESULT
from numbaconv.gemm.guard import SCAN_BYTES, clear_scan, fit
from numbaconv.jit import compiled, native
from numbaconv.simd import invoke, load_i64, record_at, stack, store_i64

CALL_BYTES = CALL.itemsize
RESULT_WORDS = tuple(8 * FIELD[name] for name in RESULT)
SCANNED = 16  # columns or rows that are only looked at, a panel


@compiled
def _start(table, group):
    return load_i64(table + 8 * group)


@compiled
def _pack(call, packer, source, splitter, starts, group, end, unit, length, pc, kc, target, scan):
    """Pack panels `group` ... `end` of an axis whose boundaries are in units of `unit` elements.

    The widest panels come first, so a packer sees at most two runs of panels of one width.
    """
    while group < end:
        width = _start(starts, group + 1) - _start(starts, group)
        same = group + 1
        while same < end and _start(starts, same + 1) - _start(starts, same) == width:
            same += 1
        first = _start(starts, group) * unit
        count = min(_start(starts, same) * unit, length) - first
        if splitter:
            p0, p1 = pc * call.depth, min((pc + kc) * call.depth, call.terms)
            invoke(splitter, (packer, source, first, count, p0, p1, target, width * unit, scan))
        else:
            invoke(packer, (source, first, count, pc, kc, target, width * unit))
        target += (same - group) * width * unit * kc * call.step_bytes
        group = same


@native
def pack_a_task(task, worker, address):
    """Pack some panels of A."""
    call = record_at(address, CALL)
    group, end = task * call.mc_groups, min((task + 1) * call.mc_groups, call.a_groups)
    scan = _scan(call, worker)
    for pc in range(call.k_first, call.k_end, call.kc):
        kc = min(call.kc, call.k_end - pc)
        target = call.a_panels + (call.a_padded * pc + _start(call.a_starts, group) * kc) * call.step_bytes
        _pack(call, call.a_packer, call.a_source, call.a_splitter, call.a_starts, group, end, 1, call.m, pc, kc, target,
              scan)  # fmt: skip


@native
def pack_b_task(task, worker, address):
    """Pack some panels of B."""
    call = record_at(address, CALL)
    lanes, scan = call.lanes, _scan(call, worker) + SCAN_BYTES
    group, end = task * call.nc_groups, min((task + 1) * call.nc_groups, call.b_groups)
    for pc in range(call.k_first, call.k_end, call.kc):
        kc = min(call.kc, call.k_end - pc)
        target = call.b_panels + (call.b_padded * pc + _start(call.b_starts, group) * lanes * kc) * call.step_bytes
        _pack(call, call.b_packer, call.b_source, call.b_splitter, call.b_starts, group, end, lanes, call.n, pc, kc,
              target, scan)  # fmt: skip


@native
def multiply_task(task, worker, address):
    """Compute one rectangle of C."""
    call = record_at(address, CALL)
    size, lanes = call.step_bytes, call.lanes
    i_task, j_task = task // call.n_tasks, task % call.n_tasks
    i_first, i_end = i_task * call.a_groups // call.m_tasks, (i_task + 1) * call.a_groups // call.m_tasks
    j_first, j_end = j_task * call.b_groups // call.n_tasks, (j_task + 1) * call.b_groups // call.n_tasks
    a_block = call.scratch + worker * call.scratch_step
    b_block = a_block + call.b_offset
    tile, scan = a_block + call.tile_offset, _scan(call, worker)
    if call.enter:
        invoke(call.enter, ())

    for jc in range(j_first, j_end, call.nc_groups):  # loop 5
        jc_end = min(jc + call.nc_groups, j_end)
        j0 = _start(call.b_starts, jc) * lanes
        for pc in range(call.k_first, call.k_end, call.kc):  # loop 4
            kc = min(call.kc, call.k_end - pc)
            accumulate = 1 if pc > call.k_first else call.accumulate
            finish = call.finish if pc + kc == call.k else 0
            if call.b_panels:
                b_panels = call.b_panels + (call.b_padded * pc + j0 * kc) * size
            else:
                b_panels = b_block
                _pack(call, call.b_packer, call.b_source, call.b_splitter, call.b_starts, jc, jc_end, lanes, call.n,
                      pc, kc, b_panels, scan + SCAN_BYTES)  # fmt: skip
            for ic in range(i_first, i_end, call.mc_groups):  # loop 3
                ic_end = min(ic + call.mc_groups, i_end)
                i0 = _start(call.a_starts, ic)
                if call.a:
                    a_panels = call.a + i0 * call.rs_a + pc * size
                elif call.a_panels:
                    a_panels = call.a_panels + (call.a_padded * pc + i0 * kc) * size
                else:
                    a_panels = a_block
                    _pack(call, call.a_packer, call.a_source, call.a_splitter, call.a_starts, ic, ic_end, 1, call.m,
                          pc, kc, a_panels, scan)  # fmt: skip
                for jr in range(jc, jc_end):  # loop 2
                    j = _start(call.b_starts, jr) * lanes
                    nv = _start(call.b_starts, jr + 1) - _start(call.b_starts, jr)
                    b_panel = b_panels + (j - j0) * kc * size
                    _panel(address, call, ic, ic_end, i0, a_panels, j, nv, b_panel, kc, accumulate, finish, tile)
    if call.leave:
        invoke(call.leave, ())


@compiled
def _panel(address, call, ic, ic_end, i0, a_panels, j, nv, b_panel, kc, accumulate, finish, tile):
    """Loop 1: every panel of the block of A against one panel of B."""
    size = call.itemsize
    width = nv * call.lanes
    columns = min(width, call.n - j)
    last = columns - width + call.lanes
    kernels = call.kernels + 16 * (nv - call.nv_low)
    plain = call.cs_c == size and within(j, columns, call.col_inner)
    plain = plain and (call.cs_r == size or call.cs_r == 0)
    c_column = call.c + offset(j, call.col_inner, call.cs_c, call.cs_outer_c)
    r_column = call.residual + offset(j, call.col_inner, call.cs_r, call.cs_outer_r)
    col_bias = call.col_bias + j * call.col_bias_step
    for ir in range(ic, ic_end):
        i = _start(call.a_starts, ir)
        rows = _start(call.a_starts, ir + 1) - i
        kernel = load_i64(kernels + 8 * (rows - call.mr_low))
        a_panel = a_panels + (i - i0) * (call.rs_a if call.a else kc * call.step_bytes)
        if plain and within(i, rows, call.row_inner):
            c = c_column + offset(i, call.row_inner, call.rs_c, call.rs_outer_c)
            residual = r_column + offset(i, call.row_inner, call.rs_r, call.rs_outer_r)
            invoke(kernel, (kc, a_panel, call.rs_a, b_panel, c, call.rs_c, last, accumulate, finish, call.scalars,
                            call.row_bias + i * call.row_bias_step, call.row_bias_step, col_bias, residual,
                            call.rs_r))  # fmt: skip
        else:
            invoke(
                kernel, (kc, a_panel, call.rs_a, b_panel, tile, width * size, last, 0, 0, call.scalars, 0, 0, 0, 0, 0)
            )
            invoke(call.store, (address, tile, width * size, i, rows, j, columns, accumulate, finish))


@compiled
def _scan(call, worker):
    """Where a worker notes what it has seen of A, and behind it of B."""
    return call.scratch + worker * call.scratch_step + call.scan_offset


@native
def scan_a_task(task, worker, address):
    """Look at some of A, and pack nothing."""
    call = record_at(address, CALL)
    first = _start(call.a_starts, task * call.mc_groups)
    end = _start(call.a_starts, min((task + 1) * call.mc_groups, call.a_groups))
    invoke(call.a_splitter, (call.a_packer, call.a_source, first, end - first, 0, call.terms, 0, SCANNED,
                             _scan(call, worker)))  # fmt: skip


@native
def scan_b_task(task, worker, address):
    """Look at some of B, and pack nothing."""
    call = record_at(address, CALL)
    first = _start(call.b_starts, task * call.nc_groups) * call.lanes
    end = min(_start(call.b_starts, min((task + 1) * call.nc_groups, call.b_groups)) * call.lanes, call.n)
    invoke(call.b_splitter, (call.b_packer, call.b_source, first, end - first, 0, call.terms, 0, SCANNED,
                             _scan(call, worker) + SCAN_BYTES))  # fmt: skip


@compiled
def run_rounds(pool, threads, address):
    """The whole product, in float32 where another arithmetic is not fit for it."""
    runner = record_at(address, CALL).runner
    if runner:  # by address: where nothing is split, nothing of it is compiled
        invoke(runner, (pool, threads, address))
    else:
        _rounds(pool, threads, address)


@native
def run_split(pool, threads, address):
    """A product in bf16, or in float32."""
    call = record_at(address, CALL)
    if not _split_rounds(pool, min(threads, call.workers), address):
        plain = stack(CALL_BYTES)
        _make_plain(address, plain)
        _rounds(pool, min(threads, record_at(plain, CALL).workers), plain)


@native
def check_fit(address, threads):
    """Whether what was seen so far may be left to bf16."""
    record_at(address, CALL).fit = 1 if fit(address, threads) else 0


@compiled
def _split_rounds(pool, threads, address):
    """The product in bf16; False where that is not fit, and then nothing was written that is read again."""
    call = record_at(address, CALL)
    for worker in range(threads):
        clear_scan(_scan(call, worker))
    if not (call.accumulate or call.in_place):
        return _rounds(pool, threads, address) and fit(address, threads)
    if call.round < call.k or not (call.a_before or call.a_place):
        fork_join(pool, call.scan_a_task, -(-call.a_groups // call.mc_groups), address, threads)
    if call.round < call.k or not (call.b_before or call.b_place):
        fork_join(pool, call.scan_b_task, -(-call.b_groups // call.nc_groups), address, threads)
    return _rounds(pool, threads, address)


@compiled
def _make_plain(address, plain):
    """Write the record of the same product in float32, in the same scratch."""
    call = record_at(address, CALL)
    for word in range(0, CALL_BYTES, 8):
        store_i64(plain + word, load_i64(call.plain + word))
    for word in RESULT_WORDS:
        store_i64(plain + word, load_i64(address + word))
    to = record_at(plain, CALL)
    to.accumulate = call.accumulate
    to.a_packer, to.a_source, to.b_packer, to.b_source = call.a_packer, call.a_source, call.b_packer, call.b_source
    if call.a_before:
        to.a_panels = call.a_panels + call.plain_offset
    if call.b_before:
        to.b_panels = call.b_panels + call.plain_offset
    workspace = call.scratch - call.a_shared - call.b_shared
    to.a_place = workspace if to.a_shared else 0
    to.b_place = workspace + to.a_shared if to.b_shared else 0
    to.scratch = workspace + to.a_shared + to.b_shared


@compiled
def _rounds(pool, threads, address):
    """In each round a part of k, packed where operands are shared, then multiplied; False when that is not fit."""
    call = record_at(address, CALL)
    accumulate = call.accumulate
    for first in range(0, call.k, call.round):
        call.k_first, call.k_end = first, min(first + call.round, call.k)
        call.accumulate = 1 if first > 0 else accumulate
        if call.a_place:
            call.a_panels = call.a_place - call.a_padded * first * call.step_bytes
            fork_join(pool, call.pack_a_task, -(-call.a_groups // call.mc_groups), address, threads)
        if call.b_place:
            call.b_panels = call.b_place - call.b_padded * first * call.step_bytes
            fork_join(pool, call.pack_b_task, -(-call.b_groups // call.nc_groups), address, threads)
        if call.check:
            invoke(call.check, (address, threads))
            if not call.fit:
                call.accumulate = accumulate
                return False
        fork_join(pool, call.multiply_task, call.m_tasks * call.n_tasks, address, threads)
    call.accumulate = accumulate
    return True


@compiled
def run_chain(pool, threads, address, count, step):
    """Products one after another, whose records are `step` bytes apart."""
    for number in range(count):
        run_rounds(pool, threads, address + number * step)
