"""Both passes of guidance share the attention of the first layer: bit for bit, or not at all."""

import torch
from pytest import mark, param

import tiny
from accel import accelerate_model, restore_model, summary
from tiny_wan_pipeline import attentions, latents, recipe, wan_pipeline

DENSE_STEPS = {"schedule": {"dense_steps": 0.34}}


def shared_calls(pipe):
    return [attention.record.shared_calls for attention in attentions(pipe)]


@mark.parametrize(
    "rest", [{}, DENSE_STEPS, {"schedule": {"dense_layers": 0.1}}], ids=["sparse", "steps", "layer"]
)
def test_the_video_is_the_same_bit_for_bit(rest):
    pipe = wan_pipeline()
    accelerate_model(pipe, recipe(**rest))
    got = latents(pipe)
    assert shared_calls(pipe) == [6, 0, 0]
    for attention in attentions(pipe):
        attention.shares = False
    assert torch.equal(latents(pipe), got)
    assert shared_calls(pipe) == [6, 0, 0]


def test_nothing_is_shared_without_a_second_pass():
    pipe = accelerate_model(wan_pipeline(), recipe())
    latents(pipe, guidance_scale=1.0)
    assert shared_calls(pipe) == [0, 0, 0]


def test_each_expert_shares_its_own():
    pipe = accelerate_model(wan_pipeline(experts=2), recipe())
    latents(pipe)
    shared = shared_calls(pipe)
    assert sum(shared) == 6 and shared[0] and shared[3]


def test_the_dense_recipe_does_all_of_its_work():
    pipe = accelerate_model(wan_pipeline(), recipe({"method": "dense"}))
    latents(pipe)
    assert shared_calls(pipe) == [0, 0, 0]


def test_shared_calls_count_as_calls_that_execute_nothing():
    pipe = accelerate_model(wan_pipeline(), recipe({"method": "dense"} | {}))
    latents(pipe)
    all_calls = summary(pipe).calls
    accelerate_model(pipe, recipe(schedule={"dense_steps": 1.0}))
    latents(pipe)
    account = summary(pipe)
    assert account.calls == all_calls
    assert account.density == 1 - 6 / all_calls
    assert "6 calls shared" in str(account)


def a_step_before(model, first):
    """Two passes at a higher noise level: after them a second pass is expected."""
    earlier = {**first, "timestep": torch.full_like(first["timestep"], 900.0)}
    with torch.no_grad():
        model(**earlier)
        model(**{**earlier, "encoder_hidden_states": other_text()})
    assert sum(shared_calls(model)) == 0


def passes(model, first, second):
    """The outputs of two forwards under one recipe, and how many calls the second shared."""
    accelerate_model(model, recipe())
    a_step_before(model, first)
    with torch.no_grad():
        model(**first)
        out = model(**second)[0]
    shared = sum(shared_calls(model))
    restore_model(model)
    return out, shared


def inputs(**changes):
    return {**tiny.inputs(tiny.wan()), **changes}


def other_text():
    return torch.randn(1, 7, 16, generator=torch.Generator().manual_seed(5))


def test_two_passes_of_a_bare_model_share():
    first = inputs()
    _, shared = passes(tiny.wan(), first, {**first, "encoder_hidden_states": other_text()})
    assert shared == 1


def test_latents_that_were_converted_anew_are_compared_by_value():
    first = inputs()
    second = {**first, "hidden_states": first["hidden_states"].clone(), "encoder_hidden_states": other_text()}
    assert passes(tiny.wan(), first, second)[1] == 1


@mark.parametrize(
    "change",
    [
        param({"hidden_states": lambda x: x + 1e-6}, id="latents"),
        param({"hidden_states": lambda x: x[:, :, :, :, :12]}, id="shape"),
        param(
            {"hidden_states": lambda x: torch.cat([x, x]), "timestep": lambda x: torch.cat([x, x])},
            id="batch",
        ),
        param({"timestep": lambda x: x - 1}, id="timestep"),
    ],
)
def test_another_input_is_computed(change):
    first = inputs()
    second = {**first, **{name: make(first[name]) for name, make in change.items()}}
    second["encoder_hidden_states"] = other_text().expand(len(second["hidden_states"]), -1, -1)
    model = tiny.wan()
    out, shared = passes(model, first, second)
    assert shared == 0
    accelerate_model(model, recipe())
    with torch.no_grad():
        assert torch.equal(model(**second)[0], out)


def test_latents_written_in_place_between_the_passes_are_computed():
    model, first = tiny.wan(), inputs()
    accelerate_model(model, recipe())
    a_step_before(model, first)
    with torch.no_grad():
        model(**first)
        first["hidden_states"].add_(0.1)
        model(**{**first, "encoder_hidden_states": other_text()})
    assert sum(shared_calls(model)) == 0


@mark.parametrize("change", ["added", "scaled", "switched off"])
def test_adapters_that_change_between_the_passes_are_computed(change):
    from peft import LoraConfig

    model, first = tiny.wan(), inputs()
    if change != "added":
        model.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    accelerate_model(model, recipe())
    a_step_before(model, first)
    with torch.no_grad():
        model(**first)
        if change == "added":
            model.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
        if change == "scaled":
            model.set_adapters(["default"], [0.5])
        if change == "switched off":
            model.disable_adapters()
        model(**{**first, "encoder_hidden_states": other_text()})
    assert sum(shared_calls(model)) == 0


def test_inference_mode_shares_nothing():
    pipe = accelerate_model(wan_pipeline(), recipe())
    with torch.inference_mode():
        latents(pipe)
    assert shared_calls(pipe) == [0, 0, 0]


def test_recorded_gradients_share_nothing():
    model, first = tiny.wan(), inputs()
    accelerate_model(model, recipe())
    first["hidden_states"].requires_grad_()
    with torch.enable_grad():
        model(**first)
        model(**{**first, "encoder_hidden_states": other_text()})
    assert sum(shared_calls(model)) == 0


def test_queries_that_differ_all_the_same_are_noticed():
    """A hook that perturbs one pass leaves the forward's inputs as they are."""
    model, first = tiny.wan(), inputs()
    accelerate_model(model, recipe())
    projection = model.blocks[0].attn1.to_q
    a_step_before(model, first)
    with torch.no_grad():
        model(**first)
        handle = projection.register_forward_hook(lambda module, args, out: out * 1.5)
        second = {**first, "encoder_hidden_states": other_text()}
        got = model(**second)[0]
        assert sum(shared_calls(model)) == 0
        restore_model(accelerate_model(model, recipe()))
        accelerate_model(model, recipe())
        assert torch.equal(model(**second)[0], got)
        handle.remove()


def test_the_same_text_again_is_no_second_pass():
    first = inputs()
    assert passes(tiny.wan(), first, first)[1] == 0


def test_a_lone_forward_keeps_nothing_for_a_second():
    model = tiny.wan()
    accelerate_model(model, recipe())
    with torch.no_grad():
        model(**inputs())
        model(**{**inputs(), "encoder_hidden_states": other_text()})
    assert sum(shared_calls(model)) == 0
