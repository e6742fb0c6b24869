"""The Triton kernels that plan: in the interpreter or on a GPU, and compiled offline."""

from pathlib import Path

import pytest
import torch

from kernel_cases import run_cases

CASES = Path(__file__).with_name("triton_planning_cases.py")


def test_cases_in_the_interpreter(interpreter):
    run_cases(CASES, TRITON_INTERPRET="1", OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cases_on_the_gpu():
    run_cases(CASES, TRITON_INTERPRET="0")


SELECTIONS = [(80, 591, None, "row"), (90, 8192, 0.9, "row"), (90, 591, 0.9, "layer")]


@pytest.mark.parametrize(("capability", "columns", "share", "budget"), SELECTIONS, ids=str)
def test_selection_compiles_without_spills(offline, capability, columns, share, budget):
    from accel.kernels.planning.heaviest_triton import keep_heaviest

    mass, must = torch.rand(1, 2, 3, columns), torch.zeros(1, 1, 3, columns, dtype=torch.bool)
    kernels = offline(capability, keep_heaviest, mass, must, must, budget, 0.3, 0.0, share)
    assert {kernel.name for kernel in kernels} == (
        {"keep_rows_kernel"}
        if budget == "row"
        else {"row_keys_kernel", "span_kernel", "narrow_kernel", "mark_kernel"}
    )
    assert all(kernel.spills == 0 for kernel in {kernel.cubin: kernel for kernel in kernels}.values())


@pytest.mark.parametrize(("capability", "columns"), [(89, 1182), (90, 8192), ("gfx942", 591)], ids=str)
def test_a_threshold_compiles_without_spills(offline, capability, columns):
    from accel.kernels.planning.heaviest_triton import keep_outstanding

    mass, must = torch.rand(1, 2, 3, columns), torch.zeros(1, 1, 3, columns, dtype=torch.bool)
    (kernel,) = offline(capability, keep_outstanding, mass, must, None, 1.3)
    assert kernel.name == "outstanding_kernel" and kernel.spills == 0


@pytest.mark.parametrize(
    ("shape", "budget"), [((1, 32, 16_384, 16_384), "row"), ((1, 32, 8_192, 8_192), "layer")]
)
def test_a_million_tokens_fit_the_grid(monkeypatch, shape, budget):
    """Launched on the meta device, where nothing runs and no memory is needed."""
    from accel.kernels.planning import heaviest_pool, heaviest_triton

    programs = []
    for module in (heaviest_triton, heaviest_pool):
        monkeypatch.setattr(module, "launch", lambda kernel, count, *_, **__: programs.append(count))
    mass, must = torch.empty(shape, device="meta"), torch.empty(1, 1, 1, 1, dtype=torch.bool, device="meta")
    kept = heaviest_triton.keep_heaviest(mass, must, None, budget, 0.2)
    assert kept.shape == shape and len(programs) > 10
    assert max(programs) < 2**31


MASSES = {  # representatives of a block, head dim, type
    "strided": ((16, 32), 128, torch.bfloat16),
    "wanted": ((16, 64), 64, torch.bfloat16),
    "wanted-D32": ((16, 64), 32, torch.bfloat16),
    "wanted-D256": ((16, 64), 128, torch.float32),
    "pooled": ((1, 1), 128, torch.float32),
    "pooled-D256": ((1, 1), 256, torch.float32),
    "sub-blocks": ((8, 8), 128, torch.float32),
    "every-token": ((128, 128), 128, torch.bfloat16),
    "D256": ((16, 32), 256, torch.bfloat16),
    "antidiagonal": ((8, 8), 2048, torch.bfloat16),
    "antidiagonal-D40": ((8, 8), 640, torch.float32),
}


@pytest.mark.parametrize("capability", [86, 90], ids="sm_{}".format)
@pytest.mark.parametrize(("per_block", "dim", "dtype"), MASSES.values(), ids=MASSES.keys())
def test_block_mass_compiles_without_spills(offline, capability, per_block, dim, dtype):
    from accel.kernels.planning.mass_triton import Causality, block_mass

    q, k, bias = torch.randn(1, 4, 300, dim), torch.randn(1, 2, 333, dim), torch.zeros(1, 1, 333)
    causality = Causality(1, 1, 300, 333) if dim == 256 else None
    kernels = offline(capability, block_mass, q.to(dtype), k.to(dtype), bias, per_block, 0.1, causality)
    kernels += offline(
        capability, block_mass, q.to(dtype), k.to(dtype), bias, per_block, 0.1, causality, most=True
    )
    assert [kernel.name for kernel in kernels] == ["block_lse_kernel", "row_mass_kernel"] * 2
    most = {86: 101_376, 90: 232_448}[capability]  # bytes; sm_89 and sm_120 have what sm_86 has
    assert all(kernel.spills == 0 and kernel.shared_memory <= most for kernel in kernels)


@pytest.mark.parametrize(
    ("capability", "dim", "budget", "table"), [(89, 128, 296, True), ("gfx942", 64, 32, False)], ids=str
)
def test_a_tree_search_compiles_without_spills(offline, capability, dim, budget, table):
    from accel.kernels.planning.tree_triton import find_in_tree, takes

    q, k = (torch.randn(1, heads, 1182 * per, dim).bfloat16() for heads, per in ((4, 16), (2, 4)))
    counts, levels = torch.full((1182,), 1181), {296: 2, 32: 6}[budget]
    assert takes(q, (16, 4), 1182, budget, levels)
    lists = (counts.expand(1182, -1).contiguous() if table else None, 0, counts)
    kernels = offline(capability, find_in_tree, q, k, (16, 4), *lists, budget, levels)
    assert {kernel.name for kernel in kernels} == {"block_scores_kernel", "tree_kernel"}
    assert all(kernel.spills == 0 and kernel.shared_memory <= 101_376 for kernel in kernels)


def test_moving_and_ordering_compile_without_spills(offline):
    from accel.kernels.layout.triton import compact_lists, move_rows, work_order

    tokens, order = torch.randn(1, 2, 300, 128, dtype=torch.bfloat16), torch.randperm(300)
    kernels = [
        *offline(90, move_rows, tokens, order),
        *offline(90, move_rows, tokens, order.expand(1, 4, -1), True),
        *offline(90, work_order, torch.zeros(1, 2, 591, dtype=torch.int32)),
        *offline(90, compact_lists, torch.zeros(1, 2, 3, 591, dtype=torch.bool)),
    ]
    assert all(kernel.spills == 0 for kernel in kernels)
    assert any(opcode.startswith("LDG.E.128") for opcode in kernels[0].sass), "rows move in wide words"
