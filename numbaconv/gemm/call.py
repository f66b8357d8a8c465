"""The record that one GEMM hands to its compiled loops, and the addresses in it."""

from __future__ import annotations

import numpy as np

SIZES = ("m", "n", "k", "k_first", "k_end", "kc", "itemsize", "lanes", "step_bytes", "depth", "terms")
OPERANDS = (
    "a", "rs_a",
    "a_packer", "a_source", "a_panels", "a_padded", "a_starts", "a_groups",
    "b_packer", "b_source", "b_panels", "b_padded", "b_starts", "b_groups",
)  # fmt: skip
SPLIT = (
    "a_splitter",
    "b_splitter",
    "plain",
    "a_before",
    "b_before",
    "scan_offset",
    "plain_offset",
    "runner",
    "check",
    "fit",
)
KERNELS = ("kernels", "mr_low", "nv_low", "store", "enter", "leave")
RESULT = (
    "c", "rs_c", "rs_outer_c", "cs_c", "cs_outer_c", "row_inner", "col_inner",
    "finish", "scalars", "row_bias", "row_bias_step", "col_bias", "col_bias_step",
    "residual", "rs_r", "rs_outer_r", "cs_r", "cs_outer_r", "in_place",
)  # fmt: skip
TASKS = (
    "m_tasks",
    "n_tasks",
    "mc_groups",
    "nc_groups",
    "scratch_step",
    "b_offset",
    "tile_offset",
    "a_shared",
    "b_shared",
    "workers",
)
ROUNDS = (
    "round",
    "pack_a_task",
    "pack_b_task",
    "multiply_task",
    "scan_a_task",
    "scan_b_task",
    "a_place",
    "b_place",
    "scratch",
    "accumulate",
)

CALL = np.dtype([(name, np.int64) for name in (*SIZES, *OPERANDS, *SPLIT, *KERNELS, *RESULT, *TASKS, *ROUNDS)])
"""One GEMM. Addresses and steps are in bytes; ``*_starts`` are tables of group boundaries (rows of A, vectors of B);
`a`, when not 0, is A read where it lies, `rs_a` from row to row;
``a_panels`` / ``b_panels`` is where packed panels are shared by all tasks, or 0 when each task packs its own;
``k_first`` and ``k_end`` are the part of k summed now, `round` steps at the most; ``a_place`` / ``b_place`` is where an
operand is packed by all threads before each round, or 0;
k and what counts it are in steps of the kernel, `depth` terms each, ``step_bytes`` of a panel for each row; `terms` is
the sum's true length;
``a_splitter`` / ``b_splitter`` wraps the packer where operands are split into bf16 (``split.py``); `plain` is then the
template of the same product in float32, run in this one's place where ``guard.py`` says so: `runner` runs one or the
other, `check` writes into `fit` which; ``a_before`` /
``b_before``: packed before, with float32 panels ``plain_offset`` bytes behind the beginning of those in bf16;
`enter` and `leave`, when not 0, are called by each task around its kernels;
``in_place``: the result may be what is added to it;
element (i, j) of the result is at c + (i // row_inner)·rs_outer_c + (i % row_inner)·rs_c + the same for j."""

POINTERS = ("a", "a_source", "a_panels", "b_source", "b_panels", "c", "scalars", "row_bias", "col_bias", "residual",
            "a_place", "b_place", "scratch")  # fmt: skip
"""The fields that hold addresses of a run: all but those of tables and of compiled code."""

FIELD = {name: place for place, name in enumerate(CALL.names)}
"""A call record is also an int64 array: where in it each field is."""


def fields(names: tuple[str, ...]) -> slice:
    """The part of a call record that holds a run of fields."""
    return slice(FIELD[names[0]], FIELD[names[-1]] + 1)
