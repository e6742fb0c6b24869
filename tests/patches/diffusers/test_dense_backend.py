"""schedule.dense_backend: dense calls run on what is named or timed; nothing else does, and it is undone."""

import copy

import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

from accel import accelerate_model, accelerated, restore_model, summary
from accel.patches.diffusers import dense_backend
from accel.patches.diffusers.backend import DenseDispatch, PreferredDense
from accel.patches.diffusers.dense_backend import DenseBackend
from accel.patches.slot import dense_sdpa
from accel.recipe.errors import RecipeError
from accel.recipe.files import build_recipe
from accel.recipe.recipe import dense_like
from tiny import inputs, wan


def recipe(name, dense_layers=0.5):
    policy = {"method": "compose", "block_size": [16, 16], "always": {"own_frame": True}}
    schedule = {"dense_layers": dense_layers, "dense_backend": name}
    return build_recipe({"schedule": schedule, "rules": [{"match": "*", "policy": policy}]}, "test")


@pytest.fixture
def ran(monkeypatch):
    """The backends of the calls that did not run the model's own attention."""
    seen, stock = [], dense_backend._run

    def run(backend, q, k, v):
        seen.append(backend.value)
        return stock(backend, q, k, v)

    monkeypatch.setattr(dense_backend, "_run", run)
    return seen


def test_the_named_backend_runs_dense_calls_and_only_those(ran):
    model = wan()
    active = _AttentionBackendRegistry.get_active_backend()
    with accelerated(model, recipe(None)):
        expected = model(**inputs(model))[0]
    with accelerated(model, recipe("_native_math")):
        torch.testing.assert_close(model(**inputs(model))[0], expected)
        assert "dense calls by diffusers' _native_math" in str(summary(model))
    assert ran == ["_native_math"] * 2  # Two of three layers are dense.
    assert _AttentionBackendRegistry.get_active_backend() == active
    model(**inputs(model))
    assert len(ran) == 2


def test_gradients_are_left_to_the_models_own(ran):
    """A backend for inference alone, SageAttention for one, has no backward and would leave them out."""
    model = accelerate_model(wan(), recipe("_native_math", dense_layers=1))
    with torch.enable_grad():
        model.requires_grad_(True)
        model(**inputs(model))
    assert ran == []


def test_what_the_user_chooses_later_is_what_runs(ran):
    model = accelerate_model(wan(), recipe("_native_math"))
    model.set_attention_backend("native")
    try:
        model(**inputs(model))
        assert ran == []
        restore_model(model)
    finally:
        _AttentionBackendRegistry.set_active_backend(AttentionBackendName.NATIVE)


def test_the_call_of_several_processes_that_records_gradients_finds_the_models_own(ran):
    """There the slot's dense attention is asked for attention over the processes, here a single one."""
    q = torch.randn(1, 8, 2, 4)
    preferred = PreferredDense(DenseDispatch(AttentionBackendName.NATIVE), DenseBackend("_native_math"))
    torch.testing.assert_close(preferred.over(None, q, q, q, None), dense_sdpa(q, q, q, None))
    assert ran == []
    torch.testing.assert_close(preferred(q, q, q, None), dense_sdpa(q, q, q, None))
    assert ran == ["_native_math"]


def test_a_copy_has_a_choice_of_its_own(ran):
    model = accelerate_model(wan(), recipe("_native_math"))
    copied = copy.deepcopy(model)
    torch.testing.assert_close(copied(**inputs(model))[0], model(**inputs(model))[0])
    assert len(ran) == 4


def test_auto_takes_the_fastest_that_agrees(monkeypatch):
    """Of two candidates, one fast and wrong, one fast and right; the model's own is slow."""
    times = {"slow": 3.0, "wrong": 1.0, "right": 2.0}

    def attention(q, k, v, mask):
        return (q * 2).clone()

    def run(backend, q, k, v):
        return q * 2 if backend == AttentionBackendName.NATIVE else q * 2.1

    def seconds(call):
        out = call()
        name = "slow" if not timed else "right" if torch.equal(out, q * 2) else "wrong"
        timed.append(name)
        return times[name]

    timed = []
    monkeypatch.setattr(dense_backend, "CANDIDATES", {"cpu": ("_native_math", "native")})
    monkeypatch.setattr(dense_backend, "_run", run)
    monkeypatch.setattr(dense_backend, "_seconds", seconds)
    q = torch.randn(1, 8, 2, 4, generator=torch.Generator().manual_seed(0))
    choice = DenseBackend("auto")
    assert torch.equal(choice(attention, q, q, q), q * 2)
    assert timed == ["slow", "right"]
    assert choice.label("PyTorch's attention") == "diffusers' native (timed)"
    choice(attention, q, q, q)
    assert timed == ["slow", "right"]  # Once a shape.


def test_auto_keeps_the_model_s_own_where_nothing_is_faster(monkeypatch):
    monkeypatch.setattr(dense_backend, "CANDIDATES", {"cpu": ("native", "_flash_3")})
    monkeypatch.setattr(dense_backend, "_seconds", lambda call: (call(), 1.0)[1])
    model = wan()
    expected = model(**inputs(model))[0]
    with accelerated(model, recipe("auto", dense_layers=1)):
        assert torch.equal(model(**inputs(model))[0], expected)
        assert "diffusers' native" in str(summary(model)) and "timed" not in str(summary(model))


def test_a_backend_that_fails_is_warned_about_once_and_left(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no kernel for this")

    monkeypatch.setattr(dense_backend, "_run", broken)
    model = wan()
    expected = model(**inputs(model))[0]
    with accelerated(model, recipe("_native_math", dense_layers=1)):
        with pytest.warns(
            UserWarning, match="dense_backend '_native_math' failed.*no kernel for this"
        ) as found:
            assert torch.equal(model(**inputs(model))[0], expected)
        assert len(found) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "native_cudnn",
            "schedule.dense_backend: unknown backend 'native_cudnn'; did you mean '_native_cudnn'",
        ),
        ("_flash_3", "schedule.dense_backend: "),
    ],
)
def test_names_that_cannot_run_are_refused_before_anything_changes(name, message):
    model = wan()
    before = [type(block.attn1.processor) for block in model.blocks]
    with pytest.raises(RecipeError, match=message):
        accelerate_model(model, recipe(name))
    assert [type(block.attn1.processor) for block in model.blocks] == before


def test_the_dense_arm_of_a_comparison_has_the_same_backend():
    assert dense_like(recipe("_native_math")).schedule.dense_backend == "_native_math"
    assert dense_like(recipe(None)).schedule.dense_backend is None
