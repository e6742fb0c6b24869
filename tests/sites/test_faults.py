"""Injected faults: dense attention finishes the run with a counted reason, or the model is left usable."""

import copy
import gc
import warnings
import weakref
from collections import Counter

import torch
from pytest import fixture, mark, raises, warns

import accel.sites.grid.grid_attention
import accel.sites.sequence.pays_off
import accel.sites.sequence.sequence_attention
import tiny
import tiny_language
from accel import accelerate_model, restore_model, summary
from accel.accelerate import patches_of
from accel.patches.site import Site
from accel.policies.permuted import Permuted
from accel.policies.radial import Radial
from accel.recipe.recipe import Recipe, Rule
from accel.sites.faults import PATIENCE, STRICT_VARIABLE, FaultWarning, kind_of
from accel.sites.site_attention import SiteAttention

VIDEO = Recipe.model_validate(
    {"rules": [{"match": "*", "policy": {"method": "radial", "decay": 0.8, "block_size": [16, 16]}}]}
)
TEXT = Recipe.model_validate(
    {
        "schedule": {"min_tokens": 0},
        "rules": [{"match": "*", "policy": {"method": "permuted", "segment": 32, "block_size": [32, 32]}}],
    }
)


class OutOfResources(Exception):
    """What Triton raises where a kernel needs more shared memory than there is."""

    __module__ = "triton.runtime.errors"


FAULTS = {
    "out of memory": (torch.OutOfMemoryError("tried to allocate 20.00 GiB"), "out of memory in {}"),
    "host memory": (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory in {}"),
    "compile error": (
        OutOfResources("shared memory\nRequired: 9"),
        "{} failed (OutOfResources: shared",
    ),
    "launch error": (
        RuntimeError("CUDA error: bad launch"),
        "{} failed (RuntimeError: CUDA error",
    ),
    "our own bug": (TypeError("unsupported operand"), "{} failed (TypeError: unsupported operand)"),
}


@fixture(autouse=True)
def lenient(monkeypatch):
    monkeypatch.delenv(STRICT_VARIABLE, raising=False)


class Broken:
    """Stands in for a function: fails the first `times` calls, then does what the function did."""

    def __init__(self, error, function, times=10**9):
        self.error, self.function, self.left = error, function, times

    def __call__(self, *args, **kwargs):
        if self.left:
            self.left -= 1
            raise self.error
        return self.function(*args, **kwargs)


def video():
    model = tiny.wan()
    return model, VIDEO, tiny.inputs(model), accel.sites.grid.grid_attention, Radial


def text():
    model = tiny_language.llama()
    return (
        model,
        TEXT,
        {"input_ids": tiny_language.tokens(150), "use_cache": False},
        accel.sites.sequence.sequence_attention,
        Permuted,
    )


@torch.no_grad()
def output(model, inputs):
    return model(**inputs)[0]


def broken(monkeypatch, module, policy, doing, error, times=10**9):
    """Make planning or the kernel fail."""
    target, name = (policy, "layout") if doing == "planning" else (module, "attention_with_lse")
    function = Broken(error, getattr(target, name), times)
    replacement = (lambda *args, **kwargs: function(*args, **kwargs)) if doing == "planning" else function
    monkeypatch.setattr(target, name, replacement)
    return function


@mark.parametrize("doing", ["planning", "the kernel"])
@mark.parametrize("fault", FAULTS)
@mark.parametrize("kind", [video, text], ids=lambda kind: kind.__name__)
def test_the_run_finishes_dense_with_a_counted_reason(monkeypatch, kind, fault, doing):
    model, recipe, inputs, module, policy = kind()
    expected = output(model, inputs)
    accelerate_model(model, recipe)
    error, reason = FAULTS[fault]
    broken(monkeypatch, module, policy, doing, error)
    with warns(FaultWarning) as told:
        got = output(model, inputs)
    assert torch.equal(got, expected)
    (counted,) = summary(model).dense_reasons.items()
    assert counted[0].startswith(reason.format(doing)) and counted[1] == summary(model).calls
    assert [warning.category for warning in told].count(FaultWarning) == 1, (
        "one warning for all sites that fail in the same way"
    )


@mark.parametrize("kind", [video, text], ids=lambda kind: kind.__name__)
def test_a_lasting_fault_is_met_once_and_sites_are_dense_from_then_on(monkeypatch, kind):
    model, recipe, inputs, module, policy = kind()
    accelerate_model(model, recipe)
    function = broken(monkeypatch, module, policy, "the kernel", FAULTS["compile error"][0])
    with warns(FaultWarning, match="this site"):
        output(model, inputs)
    tries = 10**9 - function.left
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output(model, inputs)
    sites = len(summary(model).sites)
    assert 10**9 - function.left == tries == sites
    assert list(summary(model).dense_reasons.values()) == [2 * sites]


def test_memory_is_tried_again_and_patience_ends(monkeypatch):
    model, recipe, inputs, module, policy = video()
    accelerate_model(model, recipe)
    function = broken(monkeypatch, module, policy, "planning", FAULTS["out of memory"][0])
    with warns(FaultWarning, match="this call"):
        for _ in range(PATIENCE + 2):
            output(model, inputs)
    assert 10**9 - function.left == 3 * PATIENCE
    assert summary(model).dense_reasons == {"out of memory in planning": 3 * (PATIENCE + 2)}


def test_memory_that_comes_back_makes_the_next_call_sparse(monkeypatch):
    model, recipe, inputs, module, policy = video()
    accelerate_model(model, recipe)
    expected = output(model, inputs)
    broken(monkeypatch, module, policy, "planning", FAULTS["out of memory"][0], times=3)
    with warns(FaultWarning):
        output(model, inputs)
    assert torch.equal(output(model, inputs), expected)
    site = summary(model).sites[0]
    assert site.sparse_calls == 2 and site.dense_reasons == {"out of memory in planning": 1}


def test_the_warning_says_where_what_and_what_to_do(monkeypatch):
    model, recipe, inputs, module, policy = video()
    accelerate_model(model, recipe)
    broken(monkeypatch, module, policy, "planning", TypeError("no such thing"))
    with warns(FaultWarning) as told:
        output(model, inputs)
    message = str(told[0].message)
    for part in (
        "blocks.0.attn1",
        "planning",
        "TypeError: no such thing",
        "Dense",
        STRICT_VARIABLE,
        "report",
    ):
        assert part in message


@mark.parametrize("fault", FAULTS)
def test_strict_raises_what_happened(monkeypatch, fault):
    model, recipe, inputs, module, policy = video()
    expected = output(model, inputs)
    accelerate_model(model, recipe)
    error, _ = FAULTS[fault]
    monkeypatch.setenv(STRICT_VARIABLE, "1")
    broken(monkeypatch, module, policy, "the kernel", error)
    with raises(type(error)):
        output(model, inputs)
    monkeypatch.undo()
    assert torch.equal(output(restore_model(model), inputs), expected)


@mark.parametrize("kind", [video, text], ids=lambda kind: kind.__name__)
def test_where_dense_fails_too_the_call_is_to_blame_and_the_site_is_not(monkeypatch, kind):
    """A broken call must not cost later calls their sparsity."""
    model, recipe, inputs, module, policy = kind()
    accelerate_model(model, recipe)
    expected = output(model, inputs)
    with monkeypatch.context() as patch:
        broken(patch, module, policy, "the kernel", TypeError("bad call"))
        for one in patches_of(model)[0].installed:
            patch.setattr(one.attention, "sparse", failing_dense(one.attention.sparse))
        with raises(ZeroDivisionError), warnings.catch_warnings():
            warnings.simplefilter("error")
            output(model, inputs)
    assert torch.equal(output(model, inputs), expected)
    assert not summary(model).dense_reasons


def failing_dense(sparse):
    return lambda q, plan, attend, dense, *rest, **more: sparse(q, plan, attend, lambda: 1 / 0, *rest, **more)


@mark.parametrize("doing", ["planning", "the kernel"])
@mark.parametrize("kind", [video, text], ids=lambda kind: kind.__name__)
def test_an_interrupt_is_no_fault_and_leaves_the_model_usable(monkeypatch, kind, doing):
    model, recipe, inputs, module, policy = kind()
    dense = output(model, inputs)
    accelerate_model(model, recipe)
    expected = output(model, inputs)
    with monkeypatch.context() as patch:
        broken(patch, module, policy, doing, KeyboardInterrupt())
        with raises(KeyboardInterrupt):
            output(model, inputs)
    assert torch.equal(output(model, inputs), expected) and not summary(model).dense_reasons
    assert torch.equal(output(restore_model(model), inputs), dense)


def test_a_fault_inside_compiled_code_ends_dense_too(monkeypatch):
    model, recipe, inputs, module, policy = video()
    expected = output(model, inputs)
    accelerate_model(model, recipe)
    compiled = torch.compile(model, backend="eager")
    broken(monkeypatch, module, policy, "the kernel", FAULTS["compile error"][0])
    with warns(FaultWarning):
        got = output(compiled, inputs)
    torch.testing.assert_close(got, expected)
    assert sum(summary(model).dense_reasons.values()) == 3


def test_a_measurement_that_fails_is_a_fault_of_its_layer(monkeypatch):
    model, recipe, inputs, _, _ = text()
    expected = output(model, inputs)
    accelerate_model(model, recipe, min_tokens=None)
    monkeypatch.setattr(accel.sites.sequence.pays_off, "break_even", Broken(MemoryError(), None))
    with warns(FaultWarning):
        assert torch.equal(output(model, inputs), expected)
    assert summary(model).dense_reasons == {"out of memory in planning": 2}


def test_a_copy_remembers_and_applying_again_forgets(monkeypatch):
    model, recipe, inputs, module, policy = video()
    accelerate_model(model, recipe)
    with monkeypatch.context() as patch:
        broken(patch, module, policy, "planning", TypeError("once"))
        with warns(FaultWarning):
            output(model, inputs)
    twin = copy.deepcopy(model)
    output(twin, inputs)
    assert Counter(summary(twin).dense_reasons) == {"planning failed (TypeError: once)": 6}
    accelerate_model(model, recipe)
    output(model, inputs)
    assert not summary(model).dense_reasons


@mark.parametrize("failing", ["planning", "the kernel"])
def test_a_fault_holds_no_tensors(failing):
    """The memory that planning took must be free again when dense attention starts."""
    site = Site("blocks.0.attn1", "", torch.nn.Identity(), 0, 1, 4)
    rule = Rule(match="*", policy=Radial())
    attention, alive = SiteAttention(site, rule, Recipe(rules=(rule,))), []

    def plan():
        planned = torch.zeros(1000)
        alive.append(weakref.ref(planned))
        return plan_fails(planned) if failing == "planning" else planned

    def plan_fails(planned):
        raise torch.OutOfMemoryError("x" + str(planned.sum()))

    def dense():
        assert alive.pop()() is None
        return torch.ones(3)

    gc.disable()
    try:
        with warns(FaultWarning):
            assert attention.sparse(torch.ones(1, 2, 2, 4), plan, plan_fails, dense).sum() == 3
        assert not alive
    finally:
        gc.enable()


@mark.parametrize(
    "doing, error, kind",
    [
        ("planning", torch.OutOfMemoryError(), "memory"),
        ("the kernel", RuntimeError("MPS backend out of memory"), "memory"),
        ("the kernel", RuntimeError("expected scalar type"), "kernel"),
        ("planning", RuntimeError("Triton Error [CUDA]: invalid argument"), "kernel"),
        ("planning", RuntimeError("The size of tensor a must match"), "bug"),
        ("planning", ValueError("radial needs a token grid"), "bug"),
        ("the kernel", KeyError("x"), "bug"),
    ],
    ids=str,
)
def test_whose_fault_an_error_is(doing, error, kind):
    assert kind_of(doing, error) == kind
