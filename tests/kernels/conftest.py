"""Ragged attention problems that every tier has to solve, and the one tolerance they are held to."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pytest
import torch
from packaging.version import Version

from accel.kernels.check.exactness import disagreement
from accel.kernels.check.forms import chunks_and_references
from accel.kernels.layout.boxes import Boxes
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.order import TokenOrder
from accel.kernels.layout.visibility import Visibility


@dataclass(frozen=True)
class Case:
    batch: int = 2
    heads: int = 4
    kv_heads: int = 2
    q_len: int = 203
    kv_len: int = 203
    dim: int = 64
    block: tuple[int, int] = (64, 64)
    density: float = 0.5
    shared_lists: bool = False
    causal: bool = False
    kv_lengths: tuple[int, ...] | None = None
    order: str | None = None
    tail: bool = False
    empty_row: bool = False
    window: int | None = None
    chunk: int | None = None
    boxes: bool = False

    def with_(self, **changes) -> Case:
        return replace(self, **changes)

    def layout(self, device="cpu", seed=0) -> BlockLayout:
        generator = torch.Generator().manual_seed(seed)
        lists = (1, 1) if self.shared_lists else (self.batch, self.heads)
        q_blocks, kv_blocks = -(-self.q_len // self.block[0]), -(-self.kv_len // self.block[1])
        keep = torch.rand(*lists, q_blocks, kv_blocks, generator=generator) < self.density
        keep[:, :, :, 0] = True
        if self.empty_row:
            keep[:, -1, -1] = False
        lengths = None if self.kv_lengths is None else torch.tensor(self.kv_lengths, dtype=torch.int32)
        return BlockLayout.from_mask(
            keep.to(device),
            self.block,
            self.q_len,
            self.kv_len,
            causal=self.causal,
            kv_lengths=None if lengths is None else lengths.to(device),
            q_order=self._order(self.q_len, self.heads, generator, device),
            kv_order=self._order(self.kv_len, self.kv_heads, generator, device),
            tail=self.tail,
            window=self.window,
            visibility=self._visibility(),
        )

    def _visibility(self) -> Visibility | Boxes | None:
        """Chunks of so many tokens; 0: of all kinds of runs. Or boxes of a grid of 6 x 5 x 6 places."""
        if self.boxes:
            axes = (
                tuple((i, max(i - 1, 0), min(i + reach, side - 1)) for i in range(side))
                for side, reach in ((6, 0), (5, 1), (6, 3))
            )
            return Boxes(tuple(axes), 3, self.q_len - 183)
        if self.chunk is None:
            return None
        lengths = self.q_len, self.kv_len
        return Visibility.chunks(*lengths, self.chunk) if self.chunk else chunks_and_references(*lengths)

    def _order(self, length, heads, generator, device) -> TokenOrder | None:
        if self.order is None:
            return None
        shape = (length,) if self.order == "shared" else (self.batch, heads, length)
        return TokenOrder.checked(torch.rand(shape, generator=generator).argsort(-1).to(device))

    def qkv(self, dtype=torch.float32, device="cpu", seed=1):
        generator = torch.Generator().manual_seed(seed)
        return tuple(
            torch.randn(self.batch, heads, length, self.dim, generator=generator).to(device, dtype)
            for heads, length in (
                (self.heads, self.q_len),
                (self.kv_heads, self.kv_len),
                (self.kv_heads, self.kv_len),
            )
        )


CASES = {
    "plain": Case(),
    "full": Case(density=1.0, kv_heads=4),
    "shared-lists": Case(shared_lists=True, block=(128, 64)),
    "cross": Case(q_len=130, kv_len=333, block=(64, 128)),
    "one-block": Case(q_len=5, kv_len=9),
    "empty-row": Case(empty_row=True, block=(128, 64)),
    "causal": Case(causal=True),
    "causal-offset": Case(causal=True, q_len=70, kv_len=203, block=(64, 128)),
    "causal-more-queries": Case(causal=True, q_len=203, kv_len=100),
    "padded": Case(kv_lengths=(203, 77)),
    "all-padding": Case(kv_lengths=(150, 0)),
    "causal-padded": Case(causal=True, kv_lengths=(130, 203)),
    "order": Case(order="shared"),
    "order-per-head": Case(order="heads", q_len=130),
    "order-causal": Case(order="heads", causal=True),
    "order-padded": Case(order="shared", kv_lengths=(100, 203)),
    "window": Case(causal=True, window=70),
    "window-offset": Case(causal=True, window=1, q_len=70, kv_len=203, block=(128, 32)),
    "window-padded": Case(causal=True, window=100, kv_lengths=(203, 77), block=(64, 128)),
    "window-order": Case(causal=True, window=60, order="heads"),
    "chunk": Case(chunk=60),
    "chunk-offset": Case(chunk=45, q_len=70, block=(128, 32), kv_lengths=(203, 77)),
    "chunk-more-queries": Case(chunk=30, q_len=203, kv_len=100),
    "runs-order": Case(chunk=0, order="heads"),
    "runs-shared-lists": Case(chunk=0, shared_lists=True, kv_lengths=(203, 77), block=(32, 16)),
    "runs-tail": Case(chunk=0, tail=True, density=0.3, block=(64, 16)),
    "boxes": Case(boxes=True),
    "boxes-order": Case(boxes=True, order="heads", block=(64, 16)),
    "boxes-shared": Case(boxes=True, order="shared", kv_lengths=(203, 177), shared_lists=True, density=1.0),
    "tail": Case(tail=True, density=0.3),
    "tail-causal": Case(tail=True, causal=True, density=0.3, q_len=150),
    "tail-padded": Case(tail=True, kv_lengths=(203, 77), density=0.3),
    "tail-order-causal": Case(tail=True, order="heads", causal=True, density=0.3, block=(64, 16)),
    "tail-empty-row": Case(tail=True, empty_row=True, density=0.1, block=(128, 32)),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request) -> Case:
    return request.param


@pytest.fixture
def base_case() -> Case:
    return Case()


@pytest.fixture
def assert_exact():
    """assert_exact((out, lse), q, k, v, layout): as close to fp64 as twice eager's own error in q's type."""

    def check(result, q, k, v, layout, slack=2.0, **options):
        wrong = disagreement(result, q, k, v, layout, slack, **options)
        assert wrong is None, wrong

    return check


class OfflineCompiler:
    """Compiles what a tier would launch, for a GPU that need not be there, and launches nothing.

    Usage: `kernels = offline(90, tier, q, k, v, layout)`, or "gfx942" for 90; the tensors live on the CPU.
    """

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch

    def __call__(self, capability, launch, *arguments, **options):
        from triton.runtime import driver
        from triton.runtime.jit import JITFunction

        run, kernels = JITFunction.run, []

        def compile_only(function, *args, grid, warmup, **kwargs):
            kernels.append(run(function, *args, grid=grid, warmup=True, **kwargs))

        with self.monkeypatch.context() as patch:
            patch.setattr(driver, "_active", _OfflineDriver(capability))
            patch.setattr(JITFunction, "run", compile_only)
            launch(*arguments, **options)
        return [CompiledKernel(kernel) for kernel in kernels]


class _OfflineDriver:
    def __init__(self, capability):
        self.capability = capability

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        if isinstance(self.capability, int):
            return GPUTarget("cuda", self.capability, 32)
        return GPUTarget("hip", self.capability, 64 if self.capability.startswith("gfx9") else 32)

    def get_current_device(self):
        return self.capability

    def get_current_stream(self, device):
        return 0


class CompiledKernel:
    """Name, resources and SASS of one compiled kernel."""

    def __init__(self, kernel):
        self.name = kernel.metadata.name
        self.shared_memory = kernel.metadata.shared
        self.asm = kernel.asm
        self.cubin = kernel.asm.get("cubin") or kernel.asm["hsaco"]

    def _tool(self, name, *flags):
        import triton

        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(self.cubin)
            file.flush()
            done = subprocess.run([tool, *flags, file.name], capture_output=True, text=True, check=True)
        return done.stdout

    @cached_property
    def disassembly(self) -> str:
        return self._tool("nvdisasm", "-c")

    @property
    def sass(self) -> list[str]:
        """Opcodes in program order, predicates left out."""
        opcode = r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)"
        return re.findall(opcode, self.disassembly, re.MULTILINE)

    @property
    def spills(self) -> int:
        """Instructions that store to or load from local memory; AMD's registers that are kept there."""
        if "amdgcn" in self.asm:
            return int(re.search(r"\.vgpr_spill_count:\s+(\d+)", self.asm["amdgcn"])[1])
        return sum(opcode.startswith(("STL", "LDL")) for opcode in self.sass)

    @property
    def registers(self) -> int:
        if "amdgcn" in self.asm:
            return int(re.search(r"^\s*\.vgpr_count:\s+(\d+)", self.asm["amdgcn"], re.MULTILINE)[1])
        return int(re.search(r"REG:(\d+)", self._tool("cuobjdump", "-res-usage"))[1])


@pytest.fixture
def offline(monkeypatch) -> OfflineCompiler:
    pytest.importorskip("triton")
    return OfflineCompiler(monkeypatch)


@pytest.fixture
def interpreter():
    """Triton, where its interpreter works with the NumPy there is."""
    triton, numpy = pytest.importorskip("triton"), pytest.importorskip("numpy")
    if Version(triton.__version__) < Version("3.7") and Version(numpy.__version__) >= Version("2.4"):
        pytest.skip("Triton 3.6's interpreter makes scalars of one-element arrays; NumPy 2.4 refuses")


@pytest.fixture
def emulate(monkeypatch):
    """emulate(launcher, kernel): the kernel of a module is run by the emulator of Gluon next to this file."""

    def replace_kernel(launcher, kernel):
        from accel.kernels.hopper import tiles

        path = Path(__file__).with_name("gluon_emulator.py")
        spec = importlib.util.spec_from_file_location("gluon_emulator", path)
        emulator = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(emulator)
        emulated = emulator.emulated_kernel(Path(kernel.__file__), "hopper_kernel")
        monkeypatch.setattr(launcher, "hopper_kernel", emulated)
        monkeypatch.setattr(tiles, "TensorDescriptor", emulator.Descriptor)

    return replace_kernel


@pytest.fixture
def outputs_start_as_nan(monkeypatch):
    new_empty = torch.Tensor.new_empty

    def filled(tensor, *args, **kwargs):
        out = new_empty(tensor, *args, **kwargs)
        return out.fill_(torch.nan) if out.is_floating_point() else out

    monkeypatch.setattr(torch.Tensor, "new_empty", filled)
