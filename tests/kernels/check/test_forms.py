"""The check passes a tier that is right and catches one that is not."""

from dataclasses import MISSING, fields, replace
from itertools import count

import pytest
import torch

from accel.kernels.attention import gathered as gathered_attention
from accel.kernels.attention.tiers import cannot_run, checked_tiers
from accel.kernels.check import forms
from accel.kernels.check.forms import FORMS, TILES, first_failure, problem
from accel.kernels.layout.layout import BlockLayout

CPU = torch.device("cpu")
RIGHT = gathered_attention.block_sparse_attention


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(forms, "KEY_ROWS", (64,))
    monkeypatch.setattr(forms, "TILES", (1, 2))


@pytest.mark.parametrize(("dtype", "dim"), [(torch.float32, 32), (torch.bfloat16, 64)], ids=["fp32", "bf16"])
def test_a_tier_that_is_right_passes(short, dtype, dim):
    told = []
    assert first_failure("torch", "cpu", dtype, dim, tell=told.append) is None
    assert told == [f"{name}, key blocks of 64" for name in FORMS]


def wrong_scale(q, k, v, layout, **options):
    return RIGHT(q, k, v, layout, scale=1.02 * q.shape[3] ** -0.5, **options)


def last_key_dropped(q, k, v, layout, **options):
    lengths = torch.full((q.shape[0],), layout.kv_len, dtype=torch.int32)
    lengths = lengths if layout.kv_lengths is None else layout.kv_lengths
    return RIGHT(q, k, v, replace(layout, kv_lengths=lengths.clamp(max=layout.kv_len - 1)), **options)


def one_nan(q, k, v, layout, **options):
    out, lse = RIGHT(q, k, v, layout, **options)
    out[-1, -1, -1, -1] = torch.nan
    return out, lse


def nothing_written_for_empty_rows(q, k, v, layout, **options):
    out, lse = RIGHT(q, k, v, layout, **options)
    unwritten = torch.empty_like(out)
    return torch.where(lse.isfinite()[..., None], out, unwritten), lse


def logarithm_of_two(q, k, v, layout, **options):
    out, lse = RIGHT(q, k, v, layout, **options)
    return out, lse / torch.log(torch.tensor(2.0))


CALLS = count()


def other_bits_each_time(q, k, v, layout, **options):
    out, lse = RIGHT(q, k, v, layout, **options)
    return out, lse.nextafter(torch.tensor(torch.inf)) if next(CALLS) % 2 else lse


def illegal_address(q, k, v, layout, **options):
    raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore lines")


def grouped_heads_confused(q, k, v, layout, **options):
    return RIGHT(q, k.roll(1, dims=1), v, layout, **options)


def causality_forgotten(q, k, v, layout, **options):
    return RIGHT(q, k, v, replace(layout, causal=False), **options)


BROKEN = {
    wrong_scale: "plain, key blocks of 64, 301 queries, 101 keys: out: error",
    last_key_dropped: "plain, key blocks of 64, 301 queries, 101 keys: out: error",
    one_nan: "out: not finite elsewhere than the truth",
    nothing_written_for_empty_rows: "out: not finite elsewhere than the truth",
    logarithm_of_two: "LSE: error",
    other_bits_each_time: "repeated, it gave other bits",
    illegal_address: "RuntimeError: CUDA error: an illegal memory access was encountered",
    grouped_heads_confused: "out: error",
    causality_forgotten: "causal, key blocks of 64, 301 queries, 101 keys: out: error",
}


@pytest.mark.parametrize(("broken", "failure"), BROKEN.items(), ids=[f.__name__ for f in BROKEN])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_tier_that_is_wrong_is_caught_and_named(monkeypatch, short, broken, failure, dtype):
    monkeypatch.setattr(gathered_attention, "block_sparse_attention", broken)
    found = first_failure("torch", "cpu", dtype, 32)
    assert found and failure in found and "\n" not in found


@pytest.mark.parametrize("tiles", TILES, ids="tiles{}".format)
def test_the_last_key_is_missed_among_many(monkeypatch, tiles):
    """In half precision too, where rounding could hide it."""
    monkeypatch.setattr(forms, "KEY_ROWS", (128,))
    monkeypatch.setattr(forms, "TILES", (tiles,))
    monkeypatch.setattr(gathered_attention, "block_sparse_attention", last_key_dropped)
    found = first_failure("torch", "cpu", torch.bfloat16, 64)
    assert found and found.startswith("plain")


def test_memory_that_is_not_there_is_no_failure(monkeypatch, short):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB")

    monkeypatch.setattr(gathered_attention, "block_sparse_attention", full)
    with pytest.raises(torch.OutOfMemoryError):
        first_failure("torch", "cpu", torch.float32, 32)


def test_the_mode_of_the_process_is_as_before(short):
    first_failure("torch", "cpu", torch.float32, 16)
    assert torch.get_deterministic_debug_mode() == 0


@pytest.mark.parametrize("tiles", TILES, ids="tiles{}".format)
@pytest.mark.parametrize("columns", [128, 16], ids="keys{}".format)
def test_calls_have_the_tiles_and_rows_that_they_are_for(columns, tiles):
    q, k, _, layout = problem(FORMS["plain"], columns, tiles, CPU, torch.float32, 16)
    listed = layout.kv_num_blocks * columns
    assert (listed.max() + 127) // 128 == tiles and listed.min() == 0
    assert q.is_contiguous() == k.is_contiguous() == (tiles % 2 == 0)


def test_every_thing_that_a_layout_can_say_is_tried():
    """A field that is new needs a form, or tiers would be trusted with what they were never tried with."""
    layouts = [problem(form, 64, 2, CPU, torch.float32, 16)[3] for form in FORMS.values()]
    optional = [field for field in fields(BlockLayout) if field.default is not MISSING]
    assert len(optional) >= 6
    for field in optional:
        assert any(getattr(layout, field.name) is not field.default for layout in layouts), field.name


ROUNDED = {
    "as it may": (lambda out: out * 1.01, None),
    "all too far": (lambda out: out * 1.03, "relative error 0.03"),
    "one row": (lambda out: out.index_fill(2, torch.tensor([7]), 0.0), "of a row"),
    "not finite": (lambda out: out.index_fill(2, torch.tensor([7]), torch.nan), "not finite"),
}


@pytest.mark.parametrize(("spoil", "reason"), ROUNDED.values(), ids=ROUNDED.keys())
def test_a_tier_that_rounds_is_held_to_its_own_error(spoil, reason):
    q, k, v, layout = problem(FORMS["plain"], 64, 4, CPU, torch.float32, 16)
    out, lse = RIGHT(q, k, v, layout)
    found = forms.rounded_too_far((spoil(out), lse), q, k, v, layout, 0.015)
    assert found is None if reason is None else reason in found


@pytest.mark.gpu
@pytest.mark.parametrize("dim", [64, 96, 128, 256], ids="D{}".format)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("tier", checked_tiers())
def test_the_tiers_that_need_it_pass_on_a_gpu(tier, dtype, dim):
    if not torch.cuda.is_available() or cannot_run(tier, "cuda", dtype, dim):
        pytest.skip("not for this machine")
    assert first_failure(tier, "cuda", dtype, dim) is None
