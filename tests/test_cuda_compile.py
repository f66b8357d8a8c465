"""What the CUDA kernels compile to, read off PTX, ptxas and the machine code: no GPU is needed for that."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from collections import Counter

import pytest
from numba import types

from numbaconv import jit_cuda
from numbaconv.devices.intrinsics import cuda
from numbaconv.gemm import cuda as kernels
from numbaconv.gemm import cuda_tile

missing = jit_cuda.cuda_missing()
pytestmark = pytest.mark.skipif(missing is not None, reason=f"no CUDA compiler: {missing}")

ARCHITECTURES = [(7, 5), (8, 0), (9, 0)]
STAGED = ["LARGE_STAGED", "SMALL_STAGED"]
PIPELINED = ["LARGE", "SMALL"]
LARGE = ["LARGE", "LARGE_STAGED"]
SGEMMS = [(name, "row", cc) for cc in ARCHITECTURES for name in (STAGED if cc < (8, 0) else PIPELINED)]
SGEMMS += [("LARGE_STAGED", None, (9, 0)), ("LARGE", None, (9, 0)), ("LARGE", "column", (9, 0))]
LOCAL_PTX, WIDE_PTX = re.compile(r"\b(ld|st)\.local|\.local \.align"), re.compile(r"\b(div|rem)\.[us]64")
# Division begins with a reciprocal in floating point: what is converted shows how wide it is.
WIDE_SASS = re.compile(r"(I2F|F2I).*\.[US]64\b")
CASES = [*SGEMMS, *(("pack", None, cc) for cc in ARCHITECTURES)]


def tool(name):
    """A program of the CUDA toolkit, from the path or from a wheel; skips where there is none."""
    path = shutil.which(name)
    if path is None:
        from cuda.pathfinder import find_nvidia_binary_utility

        path = find_nvidia_binary_utility(name)
    return path or pytest.skip(f"{name} is not installed")


def named(name, bias=None):
    return kernels.pack() if name == "pack" else kernels.sgemm(getattr(cuda_tile, name), bias)


@functools.cache
def ptx(name, bias, cc):
    kernel = named(name, bias)
    return jit_cuda.cuda_compile(kernel.function, kernel.signature, cc, kernel.threads, kernel.blocks)


@pytest.fixture(scope="module")
def cubin(tmp_path_factory):
    """``cubin(name, bias, cc)``: its path and what ptxas said of its resources."""
    folder = tmp_path_factory.mktemp("cubins")

    @functools.cache
    def build(name, bias, cc):
        stem = folder / f"{name}-{bias}-{cc[0]}{cc[1]}"
        source, target = stem.with_suffix(".ptx"), stem.with_suffix(".cubin")
        source.write_text(ptx(name, bias, cc))
        command = [tool("ptxas"), "-v", f"-arch=sm_{cc[0]}{cc[1]}", source, "-o", target]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return target, resources(done.stdout + done.stderr)

    return build


def resources(said):
    """ptxas's figures by name; what it does not mention is 0."""
    patterns = {
        "registers": r"Used (\d+) registers",
        "stack": r"(\d+) bytes stack frame",
        "stores": r"(\d+) bytes spill stores",
        "loads": r"(\d+) bytes spill loads",
        "shared": r"(\d+) bytes smem",
    }
    found = {name: re.search(pattern, said) for name, pattern in patterns.items()}
    assert found["registers"], said
    assert found["stack"], said
    return {name: int(match[1]) if match else 0 for name, match in found.items()}


def instructions(path):
    """The machine code: (label, operation, operands); a label stands alone."""
    done = subprocess.run([tool("nvdisasm"), "-c", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = []
    for line in done.stdout.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            lines.append((label[1], "", ""))
        elif code := re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)\s*(.*?);", line):
            lines.append(("", code[1], code[2]))
    return lines


def hot_loop(lines):
    """Operations from the target of a backward branch to the branch, of the loop with the most FFMA."""
    places = {label: place for place, (label, _, _) in enumerate(lines) if label}
    loops = []
    for place, (_, _, operands) in enumerate(lines):
        target = re.search(r"\.L_x_\d+", operands)
        if target and places[target[0]] < place:
            loops.append([operation for _, operation, _ in lines[places[target[0]] : place + 1] if operation])
    return max(loops, key=lambda loop: sum(operation.startswith("FFMA") for operation in loop))


def ident(case):
    return f"{case[0]}-{case[1]}-sm_{case[2][0]}{case[2][1]}"


@pytest.mark.parametrize("case", CASES, ids=ident)
def test_ptx_has_no_local_memory_and_no_wide_division(case):
    text = ptx(*case)
    assert f".target sm_{case[2][0]}{case[2][1]}" in text
    assert f".maxntid {named(*case[:2]).threads}" in text
    assert not LOCAL_PTX.search(text)
    assert not WIDE_PTX.search(text)
    if case[0] in PIPELINED:
        assert "cp.async.cg.shared.global" in text


@pytest.mark.parametrize("case", CASES, ids=ident)
def test_resources_are_within_their_bounds(cubin, case):
    used, kernel = cubin(*case)[1], named(*case[:2])
    print(ident(case), used)  # pytest -rP shows it
    assert (used["stack"], used["stores"], used["loads"]) == (0, 0, 0)
    assert used["registers"] <= kernel.registers
    assert used["shared"] <= cuda_tile.SHARED_BYTES
    if case[0] != "pack":
        assert used["shared"] == getattr(cuda_tile, case[0]).shared_bytes


@pytest.mark.parametrize("case", SGEMMS, ids=ident)
def test_the_hot_loop_is_multiply_adds_and_128_bit_loads(cubin, case):
    tile = getattr(cuda_tile, case[0])
    lines = instructions(cubin(*case)[0])
    loop = hot_loop(lines)
    seen = Counter(operation.split(".")[0] for operation in loop)
    assert seen["FFMA"] == tile.bk * tile.mr * tile.nr
    print(ident(case), f"hot loop: {len(loop)} instructions, FFMA {seen['FFMA'] / len(loop):.1%}")
    assert seen["FFMA"] / len(loop) >= (0.85 if case[0] in LARGE else 0.75)
    wide = [operation for operation in loop if operation.startswith("LDS") and ".128" in operation]
    assert len(wide) == tile.bk * (tile.mr + tile.nr) // 4
    copies = tile.bk * (tile.bm + tile.bn) // 4 // tile.threads
    moves = ("LDGSTS",) if tile.stages else ("LDG", "STS")
    for move in moves:
        assert sum(op.startswith(f"{move}.") and ".128" in op for op in loop) == copies
    assert not {operation.split(".")[0] for _, operation, _ in lines} & {"LDL", "STL"}


@pytest.mark.parametrize("case", CASES, ids=ident)
def test_machine_code_divides_in_32_bits(cubin, case):
    operations = [operation for _, operation, _ in instructions(cubin(*case)[0])]
    assert not [operation for operation in operations if WIDE_SASS.match(operation)]


def build_alone(folder, function, signature):
    """PTX, resources and operations of a kernel for sm_80."""
    text = jit_cuda.cuda_compile(function, signature, (8, 0), 32)
    (folder / "k.ptx").write_text(text)
    command = [tool("ptxas"), "-v", "-arch=sm_80", folder / "k.ptx", "-o", folder / "k.cubin"]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    operations = [operation for _, operation, _ in instructions(folder / "k.cubin")]
    return text, resources(said.stdout + said.stderr), operations


def test_a_wide_division_would_be_seen(tmp_path):
    """The patterns above, held against what Numba's own // gives."""

    def divide(out, by):
        out[0] = cuda.blockIdx.x // by

    text, _, operations = build_alone(tmp_path, divide, types.void(types.CPointer(types.int64), types.int64))
    assert WIDE_PTX.search(text)
    assert [operation for operation in operations if WIDE_SASS.match(operation)]


def test_local_memory_would_be_seen(tmp_path):
    def choose(out, i):
        local = cuda.local.array(256, types.float32)  # ptxas makes selects of a small one
        for j in range(256):
            local[j] = out[j]
        out[0] = local[i]

    text, used, operations = build_alone(tmp_path, choose, types.void(kernels.FLOATS, types.int32))
    assert LOCAL_PTX.search(text)
    assert used["stack"] == 1024
    assert {"LDL", "STL"} & {operation.split(".")[0] for operation in operations}


@pytest.mark.parametrize("cc", ARCHITECTURES, ids=str)
def test_the_driver_less_route_links_a_cubin(cc):
    """LTO-IR through nvJitLink: how a kernel reaches a GPU without ptxas."""
    core = pytest.importorskip("cuda.core", reason="cuda-core is not installed")
    kernel = named("LARGE" if cc >= (8, 0) else "LARGE_STAGED", "row")
    code = jit_cuda.cuda_compile(kernel.function, kernel.signature, cc, kernel.threads, kernel.blocks, output="ltoir")
    options = core.LinkerOptions(arch=f"sm_{cc[0]}{cc[1]}", link_time_optimization=True, ptxas_options=["-v"])
    linker = core.Linker(core.ObjectCode.from_ltoir(code), options=options)
    assert bytes(linker.link("cubin").code)[:4] == b"\x7fELF"
    used = resources(linker.get_info_log())
    print("nvJitLink", cc, used)
    assert (used["stack"], used["stores"], used["loads"]) == (0, 0, 0)
    assert used["registers"] <= kernel.registers
