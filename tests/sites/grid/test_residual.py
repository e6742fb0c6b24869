"""The residual: dense where it is captured, better than nothing after it, never where it does not belong."""

import math
import warnings

import torch
from pytest import mark, param, raises

import tiny
from accel import accelerate_model, restore_model, summary
from accel.kernels.attention.reference import block_sparse_attention as reference
from accel.kernels.layout.boxes import Boxes
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.order import TokenOrder
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.recipe.compensate import Compensate, Rank
from accel.recipe.errors import RecipeError
from accel.recipe.files import parse_recipe
from accel.sites.grid.call import Call
from accel.sites.grid.residual import (
    APPLIED,
    CAPTURED,
    MISSING,
    NO_MEMORY,
    ON_HOST,
    TOO_OLD,
    Residual,
    split,
)
from accel.sites.grid.residual_store import leading, stored, stored_bytes
from accel.sites.grid.value_map import sample_bytes
from tiny_wan_pipeline import attentions, latents, recipe, wan_pipeline

N, D = 77, 16
FIRST = {"schedule": {"dense_steps": 0.3}}


def qkv(heads=2, kv_heads=2, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = ((batch, heads, N, D), (batch, kv_heads, N, D), (batch, kv_heads, N, D))
    return tuple(torch.randn(size, generator=generator) for size in sizes)


def a_layout(heads=2, empty_row=True, **rest):
    keep = torch.rand(1, heads, 5, 5, generator=torch.Generator().manual_seed(3)) < 0.4
    keep[..., 0, :] = True  # a row that lists everything, and one that lists nothing
    keep[..., 1, :] = False if empty_row else keep[..., 2, :]
    return BlockLayout.from_mask(keep, (16, 16), N, N, **rest)


def dense(q, k, v):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)


ORDER = TokenOrder.checked(torch.randperm(N, generator=torch.Generator().manual_seed(1)))
LAYOUTS = {"plain": {}, "order": {"q_order": ORDER, "kv_order": ORDER}, "tail": {"tail": True}}


@mark.parametrize("rest", LAYOUTS.values(), ids=LAYOUTS)
@mark.parametrize("kv_heads", [2, 1])
def test_the_parts_add_up_to_dense(rest, kv_heads):
    q, k, v = qkv(kv_heads=kv_heads)
    layout = a_layout(**rest)
    sparse, residual = split(q, k, v, layout)
    torch.testing.assert_close(sparse + residual, dense(q, k, v), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sparse, reference(q, k, v, layout)[0], atol=1e-5, rtol=1e-5)


def test_what_a_window_hides_inside_its_blocks_is_missing_too():
    grid = TokenGrid(4, 6, 8)
    window = {"size": (3, 4, 4), "exact": True}
    policy = (
        recipe({"method": "compose", "always": {"window": window}, "block_size": [16, 16]}).rules[0].policy
    )
    q, k, v = (
        torch.randn(1, 2, grid.tokens, D, generator=torch.Generator().manual_seed(n)) for n in range(3)
    )
    layout = policy.layout(q, k, grid, Context(grid=grid))
    assert isinstance(layout.visibility, Boxes)
    sparse, residual = split(q, k, v, layout)
    torch.testing.assert_close(sparse, reference(q, k, v, layout)[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sparse + residual, dense(q, k, v), atol=1e-5, rtol=1e-5)


def test_padding_is_in_no_part():
    q, k, v = qkv(batch=2)
    lengths = torch.tensor([50, 17], dtype=torch.int32)
    sparse, residual = split(q, k, v, a_layout(kv_lengths=lengths))
    full = BlockLayout.full(N, N, (16, 16), kv_lengths=lengths)
    torch.testing.assert_close(sparse + residual, reference(q, k, v, full)[0], atol=1e-5, rtol=1e-5)


@mark.parametrize("store", ["full", Rank(4)], ids=str)
def test_padding_changes_nothing_of_what_is_carried(store):
    lengths = torch.tensor([50, 17], dtype=torch.int32)
    padding = torch.arange(N)[:, None] >= lengths[:, None, None, None]
    found = []
    for garbage in (0, 100):
        site = Kept(store=store)
        site.layout = a_layout(kv_lengths=lengths)
        site.capture(at(1, kv_lengths=lengths), tuple(x + garbage * padding for x in qkv(batch=2)))
        later = tuple(x + garbage * padding for x in qkv(batch=2, seed=1))
        found.append(site.apply(at(2, kv_lengths=lengths), later).masked_fill(padding, 0))
    assert torch.equal(*found)


def test_the_complement_lists_what_is_not_listed():
    layout = a_layout()
    assert torch.equal(layout.complement.listed, ~layout.listed)
    assert torch.equal(layout.complement.complement.listed, layout.listed)
    causal = BlockLayout.from_mask(layout.listed, (16, 16), N, N, causal=True)
    together = causal.complement.listed | causal.listed
    assert torch.equal(together[0, 0], torch.ones(5, 5, dtype=torch.bool).tril())


def at(step, branch=0, n_steps=10, **rest):
    rest = {"generation": 0, "turn": step, **rest}
    return Context(step=step, n_steps=n_steps, progress=step / n_steps, branch=branch, **rest)


class Kept:
    """One site's residual in one generation."""

    def __init__(self, **settings):
        self.residual, self.kept, self.layout = Residual(Compensate(**settings)), {}, a_layout()

    def capture(self, context, tensors, key="a"):
        return self.residual.capture(tensors, self.layout, Call(context, key, self.kept))

    def apply(self, context, tensors, key="a"):
        out, _ = split(*tensors, self.layout)
        return self.residual.apply(out, tensors[2], Call(context, key, self.kept))

    def added(self, context, tensors, key="a"):
        return self.apply(context, tensors, key) - split(*tensors, self.layout)[0]


def difference(tensors):
    return split(*tensors, a_layout())[1]


def test_capturing_gives_the_dense_output_and_the_next_step_gets_what_was_missing():
    site, tensors = Kept(), qkv()
    torch.testing.assert_close(site.capture(at(1), tensors), dense(*tensors), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(site.apply(at(2), tensors), dense(*tensors), atol=2e-3, rtol=2e-3)
    assert site.residual.counts == {CAPTURED: 1, APPLIED: 1}


def test_transport_follows_a_change_of_the_values():
    q, k, v = qkv()
    mixing = torch.randn(D, D, generator=torch.Generator().manual_seed(7)) / 4 + torch.eye(D)
    site, plain = Kept(), Kept(transport=False)
    for each in (site, plain):
        # A row without any block has no sparse output that could follow the values' mean.
        each.layout = a_layout(empty_row=False)
        each.capture(at(1), (q, k, v))
    exact = dense(q, k, v @ mixing + 3.0)
    followed, left = (each.apply(at(2), (q, k, v @ mixing + 3.0)) for each in (site, plain))
    assert (followed - exact).norm() < 0.02 * (left - exact).norm()


def test_constant_values_are_no_trouble():
    q, k, v = qkv()
    site = Kept()
    site.capture(at(1), (q, k, torch.ones_like(v)))
    assert torch.isfinite(site.apply(at(2), (q, k, torch.ones_like(v)))).all()


@mark.parametrize("key", ["shapes", "adapters"])
def test_another_key_gets_nothing(key):
    site, tensors = Kept(), qkv()
    site.capture(at(1), tensors)
    assert not site.added(at(2), tensors, key=key).any()
    assert site.residual.layout(Call(at(2), key, site.kept)) is None
    assert site.residual.counts[MISSING] == 1


def test_another_generation_gets_nothing():
    site, tensors = Kept(), qkv()
    site.capture(at(1), tensors)
    assert not site.added(at(2, generation=1), tensors).any()


def test_old_residuals_are_not_added_and_say_so():
    site, tensors = Kept(max_progress=0.35), qkv()
    site.capture(at(1), tensors)
    assert site.added(at(4), tensors).any()
    assert not site.added(at(5), tensors).any()
    assert site.residual.counts[TOO_OLD] == 1
    assert site.residual.layout(Call(at(5), "a", site.kept)) is None
    site.capture(at(6), tensors)
    assert site.added(at(7), tensors).any()


def test_the_branches_difference_fades_and_their_mean_stays():
    one, two = qkv(seed=1), qkv(seed=2)
    site = Kept(branch_decay=0.3, transport=False, max_progress=1.0)
    for branch, tensors in enumerate((one, two)):
        site.capture(at(1, branch), tensors)
    mean = (difference(one) + difference(two)) / 2
    for step in (2, 8):
        left = math.exp(-(step - 1) / 10 / 0.3)
        for branch, tensors in enumerate((one, two)):
            expected = mean + left * (difference(tensors) - mean)
            site.residual.branches(Call(at(0), None, site.kept)).seen.update({0: step - 1, 1: step - 1})
            torch.testing.assert_close(site.added(at(step, branch), tensors), expected, atol=1e-5, rtol=1e-5)


def test_text_is_each_branchs_own():
    one, two = qkv(seed=1), qkv(seed=2)
    site = Kept(branch_decay=0.3, transport=False)
    grid = TokenGrid(1, 7, 10, text_tokens=7)
    for branch, tensors in enumerate((one, two)):
        site.capture(at(1, branch, grid=grid), tensors)
    site.residual.branches(Call(at(0), None, site.kept)).seen.update({0: 3, 1: 3})
    added = site.added(at(4, grid=grid), one)
    torch.testing.assert_close(added[:, :, 70:], difference(one)[:, :, 70:], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(added[:, :, :70], difference(one)[:, :, :70], atol=1e-2)


def test_guidance_that_is_switched_off_leaves_each_branch_its_own():
    one, two = qkv(seed=1), qkv(seed=2)
    site = Kept(transport=False, max_progress=1.0)
    for branch, tensors in enumerate((one, two)):
        site.capture(at(1, branch), tensors)
    site.added(at(2), one)  # the last step with a second branch is 1
    torch.testing.assert_close(site.added(at(3), one), difference(one), atol=1e-5, rtol=1e-5)


def test_no_decay_keeps_one_residual_for_both_branches():
    one, two = qkv(seed=1), qkv(seed=2)
    site, both = Kept(branch_decay=0, transport=False), Kept(transport=False)
    for each in (site, both):
        for branch, tensors in enumerate((one, two)):
            each.capture(at(1, branch), tensors)
    for branch, tensors in enumerate((one, two)):
        torch.testing.assert_close(site.added(at(2, branch), tensors), difference(one), atol=1e-5, rtol=1e-5)
    assert site.residual.nbytes * 2 == both.residual.nbytes


def test_one_map_serves_both_branches_of_a_step():
    one, two = qkv(seed=1), qkv(seed=2)
    site = Kept()
    for branch, tensors in enumerate((one, two)):
        site.capture(at(1, branch), tensors)
    site.added(at(2, 0), one)
    first = site.residual.branches(Call(at(0), None, site.kept)).transport
    site.added(at(2, 1), two)
    assert site.residual.branches(Call(at(0), None, site.kept)).transport is first


@mark.parametrize("decay", [0, 0.2])
def test_passes_of_different_batches_keep_residuals_of_their_own(decay):
    site, passes = Kept(branch_decay=decay), [qkv(batch=2), qkv(batch=1, seed=1)]
    for branch, tensors in enumerate(passes):
        site.capture(at(1, branch), tensors, key=branch)
    for branch, tensors in enumerate(passes):
        added = site.added(at(2, branch), tensors, key=branch)
        torch.testing.assert_close(added, difference(tensors), atol=2e-3, rtol=2e-3)


STORES = {"full": 1e-6, "int8": 0.01, "int4": 0.12}


@mark.parametrize("store", STORES)
@mark.parametrize("dim", [16, 15])
def test_stores_give_back_what_they_were_given(store, dim):
    values = torch.randn(2, 3, 9, dim) * torch.rand(2, 3, 9, 1)
    values[0, 0, 0] = 0
    kept = stored(values, store, torch.float32)
    got = kept.times(None, values.device)
    assert ((got - values).norm() / values.norm()).item() < STORES[store]
    mixing = torch.randn(2, 3, dim, dim)
    torch.testing.assert_close(kept.times(mixing, values.device), got @ mixing)
    assert kept.nbytes == 2 * stored_bytes(store, 9, 3, dim, 4)


def test_a_rank_is_the_best_of_its_rank():
    values = torch.randn(1, 2, 40, 4) @ torch.randn(1, 2, 4, 16)
    kept = stored(values, Rank(4), torch.float32)
    torch.testing.assert_close(kept.times(None, values.device), values, atol=1e-3, rtol=1e-3)
    assert kept.nbytes == stored_bytes(Rank(4), 40, 2, 16, 4)
    singular = torch.linalg.svdvals(values)
    left = (stored(values, Rank(2), torch.float32).times(None, values.device) - values).norm(dim=(2, 3))
    torch.testing.assert_close(left, singular[..., 2:].norm(dim=-1), atol=1e-2, rtol=1e-2)
    assert stored(values, Rank(99), torch.float32).nbytes == stored_bytes(Rank(99), 40, 2, 16, 4)


@mark.parametrize("decay", [0.0, 1.0, 3.0])
def test_many_dimensions_lose_hardly_more_than_the_best_rank(decay):
    left, right = (torch.linalg.qr(torch.randn(1, 2, rows, 64)).Q for rows in (200, 64))
    values = left * torch.arange(1, 65) ** -decay @ right
    basis = leading(values.mT @ values, 8)
    torch.testing.assert_close(basis.mT @ basis, torch.eye(8).expand(1, 2, 8, 8), atol=1e-4, rtol=0)
    lost, best = values - values @ basis @ basis.mT, torch.linalg.svdvals(values)[..., 8:]
    assert lost.norm() < 1.05 * best.norm()
    assert torch.isfinite(leading(torch.zeros(1, 1, 64, 64), 8)).all()


@mark.parametrize("store", ["full", "int8", "int4", {"rank": 8}])
def test_a_generation_with_each_store(store):
    pipe = wan_pipeline()
    exact = latents(pipe)
    compensate = {"store": store, "device": "cpu", "max_progress": 0.35}
    accelerate_model(pipe, recipe(compensate=compensate, reuse={"branches": True}, **FIRST))
    got = latents(pipe)
    account = summary(pipe)
    # Three layers, of which the first shares its second pass; 2 of the 4 sparse steps are near enough.
    assert account.residual == {CAPTURED: 5, APPLIED: 10, TOO_OLD: 10}
    assert account.residual_bytes > 0 and "residual: captured" in str(account)
    restore_model(pipe)
    assert not torch.equal(got, exact) and torch.isfinite(got).all()
    assert torch.equal(latents(pipe), exact)


def test_what_it_keeps_is_what_inspect_says():
    site, tensors = Kept(store={"rank": 8}), qkv()
    for branch in (0, 1):
        site.capture(at(1, branch), tensors)
    assert site.residual.nbytes == 2 * stored_bytes(Rank(8), N, 2, D, 4) + sample_bytes(N, 2, D, 4)


def test_it_lowers_the_error_of_a_generation():
    pipe = wan_pipeline()
    exact = latents(pipe)
    errors = []
    for compensate in (None, {}):
        accelerate_model(pipe, recipe(compensate=compensate, reuse={"steps": 9, "branches": True}, **FIRST))
        errors.append((latents(pipe) - exact).norm().item())
    assert errors[1] < 0.95 * errors[0]


def test_dense_steps_stay_dense_and_are_counted_as_before():
    pipe = wan_pipeline()
    accelerate_model(pipe, recipe(compensate={}, schedule={"dense_steps": 0.6}))
    latents(pipe, steps=3)
    assert summary(pipe).dense_reasons == {"first steps": 10}  # 12 calls, of which two are shared


def test_refreshes_capture_anew():
    pipe = accelerate_model(
        wan_pipeline(), recipe(compensate={}, schedule={"dense_steps": 0.1, "dense_every": 0.4})
    )
    latents(pipe, steps=10)
    assert set(summary(pipe).dense_reasons) == {"first steps", "refresh"}
    assert attentions(pipe)[1].record.dense_steps == {0: 2, 6: 2}
    assert attentions(pipe)[1].residual.counts[CAPTURED] == 4


def test_without_a_dense_step_before_it_nothing_is_added():
    pipe = accelerate_model(wan_pipeline(), recipe(compensate={}))
    plain = accelerate_model(wan_pipeline(), recipe())
    assert torch.equal(latents(pipe), latents(plain))
    assert set(summary(pipe).residual) == {MISSING}


def test_the_second_expert_has_none_before_a_dense_step_of_its_own():
    pipe = accelerate_model(wan_pipeline(experts=2), recipe(compensate={}, schedule={"dense_steps": 0.2}))
    latents(pipe)
    second = [each for each in attentions(pipe) if each.n_layers == 2]
    assert all(set(each.residual.counts) == {MISSING} for each in second)


def test_a_new_prompt_starts_with_nothing():
    pipe = accelerate_model(wan_pipeline(), recipe(compensate={}, **FIRST))
    first = latents(pipe)
    latents(pipe, generator=torch.Generator().manual_seed(9))
    assert torch.equal(latents(pipe), first)


def test_adapters_that_change_in_between_end_it():
    from peft import LoraConfig

    pipe = accelerate_model(wan_pipeline(), recipe(compensate={}, **FIRST))

    def add(pipe, step, timestep, values):
        if step == 2:
            pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
        return {}

    latents(pipe, callback_on_step_end=add)
    counts = attentions(pipe)[1].residual.counts
    assert counts[APPLIED] == 2 and counts[MISSING] == 6


def test_a_failure_while_capturing_runs_dense_and_leaves_nothing(monkeypatch):
    monkeypatch.delenv("ACCEL_STRICT")
    pipe = wan_pipeline()
    exact = latents(pipe, steps=2)
    accelerate_model(pipe, recipe(compensate={}, schedule={"dense_steps": 0.5}))

    def fail(*args):
        raise RuntimeError("boom")

    monkeypatch.setattr("accel.sites.grid.residual.stored", fail)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = latents(pipe, steps=2)
    assert torch.equal(got, exact)
    assert "kernel failed" in " ".join(summary(pipe).dense_reasons)


def out_of_memory(*args, **rest):
    raise torch.OutOfMemoryError("CUDA out of memory")


def branches_of(site):
    return site.residual.branches(Call(at(0), "a", site.kept))


def test_nothing_is_held_once_it_is_too_old_or_the_last_step_is_done():
    one, two = qkv(seed=1), qkv(seed=2)
    old, done = Kept(max_progress=0.35), Kept(max_progress=1.0)
    for site in (old, done):
        for branch, tensors in enumerate((one, two)):
            site.capture(at(1, branch), tensors)
        assert branches_of(site).nbytes > 0
    old.apply(at(5, 0), one)
    old.apply(at(5, 1), two)
    assert branches_of(old).nbytes == 0 and old.residual.counts[TOO_OLD] == 2
    done.apply(at(9, 0), one)
    assert done.added(at(9, 1), two).any()
    assert branches_of(done).nbytes == 0


def test_another_expert_frees_what_the_first_one_left():
    first, second, tensors = Kept(), Kept(), qkv()
    second.kept = first.kept
    first.capture(at(1), tensors)
    second.capture(at(2), tensors)
    assert branches_of(first).nbytes > 0
    second.capture(at(3), tensors)
    assert branches_of(first).nbytes == 0 and branches_of(second).nbytes > 0


def test_what_does_not_fit_on_the_device_goes_to_the_host_and_is_the_same(monkeypatch):
    tensors, pair = qkv(), (Kept(), Kept())
    pair[0].capture(at(1), tensors)
    monkeypatch.setattr("accel.sites.grid.residual.room_on", lambda *args: 100)
    pair[1].capture(at(1), tensors)
    assert pair[1].residual.counts == {CAPTURED: 1, ON_HOST: 1}
    assert torch.equal(*(site.apply(at(2), tensors) for site in pair))


def test_no_memory_to_keep_it_is_counted_and_adds_nothing(monkeypatch):
    site, tensors = Kept(), qkv()
    monkeypatch.setattr("accel.sites.grid.residual.stored", out_of_memory)
    torch.testing.assert_close(site.capture(at(1), tensors), dense(*tensors), atol=1e-5, rtol=1e-5)
    assert not site.added(at(2), tensors).any()
    assert site.residual.counts == {NO_MEMORY: 1}
    # Other processes plan, or do not, as if it were there.
    assert site.residual.layout(Call(at(2), "a", site.kept)) is not None


def test_no_memory_to_add_it_leaves_sparse_attention(monkeypatch):
    site, tensors = Kept(), qkv()
    site.capture(at(1), tensors)
    monkeypatch.setattr("accel.sites.grid.residual.add", out_of_memory)
    assert not site.added(at(2), tensors).any()
    assert site.residual.counts[NO_MEMORY] == 1 and branches_of(site).nbytes == 0
    assert site.residual.layout(Call(at(3), "a", site.kept)) is not None


def test_no_memory_to_capture_it_costs_one_try_a_generation(monkeypatch):
    monkeypatch.delenv("ACCEL_STRICT")
    monkeypatch.setattr("accel.sites.grid.residual.split", out_of_memory)
    pipe, plain = wan_pipeline(), accelerate_model(wan_pipeline(), recipe(**FIRST))
    accelerate_model(pipe, recipe(compensate={}, **FIRST))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = latents(pipe)
    torch.testing.assert_close(got, latents(plain), atol=1e-5, rtol=1e-5)
    account = summary(pipe)
    assert account.dense_reasons["out of memory in the kernel"] == len(attentions(pipe))
    assert account.sparse_calls == summary(plain).sparse_calls


def test_batched_guidance_treats_samples_apart():
    tensors = qkv(batch=2, seed=4)
    site = Kept(transport=False)
    site.capture(at(1), tensors)
    torch.testing.assert_close(site.added(at(2), tensors), difference(tensors), atol=1e-5, rtol=1e-5)


BAD = {
    "store: int3": "store",
    "store: {rank: 0}": "rank",
    "max_progress: 0": "max_progress",
    "kind: delta": "kind",
    "branch_decay: -1": "branch_decay",
    "ages: 3": "ages",
}


@mark.parametrize("line", [param(line, id=line) for line in BAD])
def test_mistakes_in_a_recipe_name_their_key(line):
    text = f"compensate: {{{line}}}\nrules: [{{match: '*', policy: {{method: radial}}}}]"
    with raises(RecipeError, match=f"compensate.*{BAD[line]}"):
        parse_recipe(text, "mine.yaml")


def test_bf16_adds_in_float32():
    tensors = tuple(x.bfloat16() for x in qkv())
    site = Kept()
    out = site.capture(at(1), tensors)
    assert out.dtype == torch.bfloat16
    error = (site.apply(at(2), tensors).float() - dense(*(x.float() for x in tensors))).norm()
    assert error < 0.03 * out.float().norm()
    assert site.residual.nbytes > 0


@torch.no_grad()
def test_steps_that_nobody_counts_capture_in_every_dense_forward():
    model = accelerate_model(tiny.wan(), recipe(compensate={}, schedule={"dense_steps": 0.5}))
    for timestep in (900.0, 700.0, 450.0):
        model(**{**tiny.inputs(model), "timestep": torch.tensor([timestep])})
    counts = attentions(model)[1].residual.counts
    assert counts[CAPTURED] == 2 and counts[APPLIED] == 1
