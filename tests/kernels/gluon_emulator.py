"""Runs the Hopper kernel's own source on a CPU: three threads a program, barriers, lazy products, TMA boxes.

It emulates what Gluon promises, not what a GPU does: it finds wrong indices, phases, masks and deadlocks, and
reads of a tile before it came or after its place was freed; it says nothing about speed or memory fences.
"""

from __future__ import annotations

import math
import re
import sys
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import patch

import torch

program = SimpleNamespace(ids=(0,), copy_seconds=0.0, product_seconds=0.0)
PATIENCE = 20  # seconds until a wait is called a deadlock


class Scalar(int):
    """An int whose arithmetic stays scalar and that can be cast, as Gluon's can."""

    def to(self, _dtype):
        return self


def _lift(name):
    plain = getattr(int, name)

    def lifted(self, *others):
        result = plain(self, *others)
        return Scalar(result) if type(result) is int else result

    return lifted


for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "floordiv", "mod", "and", "xor"):
    setattr(Scalar, f"__{_name}__", _lift(f"__{_name}__"))


class Pointer:
    def __init__(self, memory, offset=0):
        self.memory, self.offset = memory, offset

    def __add__(self, offset):
        return Pointer(self.memory, self.offset + offset)

    def __sub__(self, offset):
        return self + -offset


class Shared:
    """A piece of shared memory; it starts as NaN."""

    def __init__(self, tensor):
        self.tensor = tensor
        self.dtype, self.shape = tensor.dtype, tensor.shape

    def index(self, i):
        return Shared(self.tensor[int(i)])

    def slice(self, start, length, dim=0):
        return Shared(self.tensor.narrow(dim, int(start), length))

    def permute(self, order):
        return Shared(self.tensor.permute(order))

    def load(self, _layout):
        return self.tensor.clone()

    def store(self, value):
        self.tensor.copy_(value)


class Barrier:
    def __init__(self):
        self.condition = threading.Condition()
        self.phase = 0

    def init(self, count):
        self.count = self.pending = count
        self.bytes = 0

    def update(self, arrivals=0, bytes_=0):
        with self.condition:
            self.pending -= arrivals
            self.bytes += bytes_
            assert self.pending >= 0, "more arrivals than the barrier counts"
            if self.pending == 0 and self.bytes == 0:
                self.pending, self.phase = self.count, self.phase + 1
                self.condition.notify_all()

    def wait(self, parity):
        with self.condition:
            done = self.condition.wait_for(lambda: (self.phase & 1) != int(parity), timeout=PATIENCE)
            assert done, "deadlock"


class Barriers:
    def __init__(self, count):
        self.barriers = [Barrier() for _ in range(count)]

    def index(self, i):
        return self.barriers[int(i)]


class Product:
    """A product of matrices that is computed when it is waited for, as an asynchronous one may be."""

    def __init__(self, a, b, accumulator):
        self.a, self.b, self.accumulator, self.value = a, b, accumulator, None

    def finish(self):
        if self.value is None:
            time.sleep(program.product_seconds)
            a = (self.a.tensor if isinstance(self.a, Shared) else self.a).float()
            sums = self.accumulator
            self.value = a @ self.b.tensor.float() + (sums.value if isinstance(sums, Product) else sums)


in_flight = threading.local()


def warpgroup_mma(a, b, accumulator, use_acc=True, is_async=False):
    product = Product(a, b, accumulator if use_acc else torch.zeros_like(accumulator))
    in_flight.products = [*getattr(in_flight, "products", []), product]
    return product


def warpgroup_mma_wait(outstanding, deps):
    keep = len(in_flight.products) - outstanding
    for product in in_flight.products[:keep]:
        product.finish()
    in_flight.products = in_flight.products[keep:]
    values = tuple(dep.value if isinstance(dep, Product) else dep for dep in deps)
    assert all(value is not None for value in values), "used before it was waited for"
    return values if len(values) > 1 else values[0]


class Descriptor:
    def __init__(self, tensor, shape, strides, box, _layout):
        assert list(shape) == list(tensor.shape) and tensor.data_ptr() % 16 == 0
        assert all(s * tensor.itemsize % 16 == 0 for s in strides[:-1]) and strides[-1] == 1
        assert all(s == t for s, t, n in zip(strides, tensor.stride(), shape, strict=True) if n > 1)
        self.tensor, self.dtype = tensor, tensor.dtype
        self.block_type = SimpleNamespace(shape=box, nbytes=math.prod(box) * tensor.itemsize)

    def box(self, coordinates):
        b, h, row, column = (int(c) for c in coordinates)
        _, _, rows, columns = self.block_type.shape
        return self.tensor[b, h, row : row + rows, column : column + columns]


def tma_load(descriptor, coordinates, barrier, place):
    time.sleep(program.copy_seconds)
    box = descriptor.box(coordinates)
    place.tensor.zero_()
    place.tensor[: box.shape[0], : box.shape[1]] = box
    barrier.update(bytes_=-descriptor.block_type.nbytes)


def tma_store(descriptor, coordinates, place):
    box = descriptor.box(coordinates)
    box.copy_(place.tensor[: box.shape[0], : box.shape[1]])


def load(pointer, mask=None, other=0):
    if not isinstance(pointer.offset, torch.Tensor):
        value = pointer.memory[int(pointer.offset)].item() if mask is None or mask else other
        return Scalar(value) if isinstance(value, int) else value
    offsets = pointer.offset if mask is None else torch.where(mask, pointer.offset, 0)
    return torch.where(mask, pointer.memory[offsets], other) if mask is not None else pointer.memory[offsets]


def store(pointer, value, mask):
    pointer.memory[pointer.offset[mask]] = value[mask]


def elementwise(on_tensors, on_scalars):
    def apply(*values):
        pointers = [value for value in values if isinstance(value, Pointer)]
        if pointers:
            offsets = (value.offset if isinstance(value, Pointer) else value for value in values)
            return Pointer(pointers[0].memory, apply(*offsets))
        if any(isinstance(value, torch.Tensor) for value in values):
            return on_tensors(*(torch.as_tensor(value) for value in values))
        return Scalar(on_scalars(*values))

    return apply


def inline_asm_elementwise(assembly, _constraints, numbers, dtype, **_options):
    """What the kernel's assembly does: a move or a rounding."""
    (number,) = numbers
    if assembly.startswith("mov"):
        return number
    assert ("bf16x2" in assembly) == (dtype == torch.bfloat16) and "$0, $2, $1" in assembly
    return number.to(dtype)


def warp_specialize(partitions, _workers, _registers):
    failures = []

    def guarded(function, arguments):
        try:
            function(*arguments)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=partition) for partition in partitions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def allocate_shared_memory(dtype, shape, _layout):
    if dtype == torch.int64:
        return Barriers(shape[0])
    return Shared(torch.full(shape, torch.nan, dtype=dtype))


def _language():
    def ignored(*_args, **_kwargs):
        return None

    return SimpleNamespace(
        constexpr=lambda value: value,
        NVMMADistributedLayout=ignored, BlockedLayout=ignored, SliceLayout=ignored, DotOperandLayout=ignored,
        bfloat16=torch.bfloat16, float16=torch.float16,
        NVMMASharedLayout=SimpleNamespace(get_default_for=ignored),
        int32=torch.int32, int64=torch.int64, float32=torch.float32, load=load, store=store,
        static_range=range, convert_layout=lambda value, _layout: value,
        arange=lambda start, end, _layout: torch.arange(start, end),
        zeros=lambda shape, dtype, _layout: torch.zeros(shape, dtype=dtype),
        full=lambda shape, value, dtype, _layout: torch.full(shape, value, dtype=dtype),
        where=elementwise(torch.where, lambda c, a, b: a if c else b),
        maximum=elementwise(torch.maximum, max), minimum=elementwise(torch.minimum, min),
        max=lambda x, axis: x.amax(axis), sum=lambda x, axis: x.sum(axis),
        inline_asm_elementwise=inline_asm_elementwise, exp2=torch.exp2, log2=torch.log2,
        cdiv=lambda a, b: Scalar(-(-a // b)),
        program_id=lambda axis: Scalar(program.ids[axis]),
        allocate_shared_memory=allocate_shared_memory, warp_specialize=warp_specialize,
    )  # fmt: skip


def _hopper():
    def wait(barrier, phase, pred=True):
        if pred:
            barrier.wait(phase)

    return SimpleNamespace(
        fence_async_shared=lambda: None, warpgroup_mma=warpgroup_mma, warpgroup_mma_wait=warpgroup_mma_wait,
        tma=SimpleNamespace(async_load=tma_load, async_store=tma_store, store_wait=lambda _pending: None),
        mbarrier=SimpleNamespace(
            MBarrierLayout=lambda: None, wait=wait, init=lambda barrier, count: barrier.init(count),
            expect=lambda barrier, bytes_: barrier.update(arrivals=1, bytes_=bytes_),
            arrive=lambda barrier, count: barrier.update(arrivals=count),
        ),
    )  # fmt: skip


def _reach(tensor):
    """Elements of memory from the first of `tensor` to the last."""
    return 1 + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))


class Launcher:
    """`kernel[grid](...)`, one program after the other."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        def launch(*arguments, num_warps, enable_fp_fusion, **constants):
            pointers = [
                Pointer(a.as_strided((_reach(a),), (1,)))
                if isinstance(a, torch.Tensor)
                else Scalar(a)
                if type(a) is int
                else a
                for a in arguments
            ]
            for x in range(grid[0]):
                program.ids = (x,)
                # Copies that come late and products that end late show what does not wait for them.
                program.copy_seconds, program.product_seconds = ((1e-3, 0.0), (0.0, 1e-3))[x % 2]
                self.kernel(*pointers, **constants)

        return launch


def _sources(path: Path) -> list[Path]:
    """The source files of kernels that the one at `path` imports from, and last itself."""
    imported = re.findall(r"^from accel\.kernels\.([\w.]+) import", path.read_text(), re.MULTILINE)
    root = next(parent for parent in path.parents if parent.name == "kernels")
    files = [root / f"{name.replace(chr(46), chr(47))}.py" for name in imported]
    return [*(source for file in files for source in _sources(file)), path]


def emulated_kernel(path: Path, name: str) -> Launcher:
    """The kernel that the source file at `path` is named for, its Gluon replaced by this emulation."""
    gluon = ModuleType("triton.experimental.gluon")
    gluon.constexpr_function = lambda function: function
    gluon.jit = lambda function=None, **_options: function or gluon.constexpr_function
    gluon.language = _language()
    hopper = ModuleType("triton.experimental.gluon.language.nvidia.hopper")
    vars(hopper).update(vars(_hopper()))
    names = [
        "triton",
        "triton.experimental",
        "triton.experimental.gluon.language",
        "triton.experimental.gluon.language.nvidia",
    ]
    packages = {name: ModuleType(name) for name in names}
    packages["triton.experimental"].gluon = gluon
    descriptors = ModuleType("triton.experimental.gluon.nvidia.hopper")
    descriptors.TensorDescriptor = Descriptor
    modules = {module.__name__: module for module in (gluon, hopper, descriptors)}
    with patch.dict(sys.modules, {**packages, **modules}):
        for source in _sources(path):
            places = source.parts[len(source.parts) - source.parts[::-1].index("kernels") :]
            module = ModuleType(".".join(("accel.kernels", *places)).removesuffix(".py"))
            sys.modules[module.__name__] = module
            exec(compile(source.read_text(), str(source), "exec"), vars(module))
    return Launcher(getattr(module, name))
