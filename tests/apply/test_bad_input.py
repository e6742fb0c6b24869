"""The likeliest mistakes with every public function: each ends in a sentence of ours that says what to do."""

import traceback
from pathlib import Path

import torch
from diffusers import UNet2DModel, UniPCMultistepScheduler
from pytest import fixture, mark, raises, warns
from transformers import BertConfig, BertModel

import tiny
import tiny_language
from accel import Recipe, accelerate_model, accelerated, load_recipe, restore_model, summary
from accel.accelerate import patches_of, plan_for
from accel.apply.supported import require_models
from accel.policies import registered_policies
from accel.policies.radial import Radial
from accel.recipe.override import override

RECIPE = Recipe.model_validate(
    {"rules": [{"match": "*", "policy": {"method": "draft", "region": [2, 2], "block_size": [16, 16]}}]}
)
BERT = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
UNET = {
    "block_out_channels": (32, 32),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}


class Pipeline:
    """The shape of a diffusers pipeline."""

    def __init__(self, **parts):
        self.components, self.scheduler = parts, None
        vars(self).update(parts)


class TheirProcessor:
    def __call__(self, attn, hidden_states, *args, **kwargs):
        return hidden_states


@fixture
def model():
    return tiny.wan(num_layers=2)


@torch.no_grad()
def output(model, **changes):
    return model(**{**tiny.inputs(model), **changes})[0]


NO_MODELS = {
    "none": (lambda: None, "got None"),
    "a name": (lambda: "Wan-AI/Wan2.1", "is a name, not a model: load it first"),
    "a path": (lambda: Path("weights"), "is a name, not a model"),
    "a class": (lambda: tiny.WanTransformer3DModel, "is a class; pass a loaded"),
    "weights": (lambda: tiny.wan().state_dict(), "holds weights or parts"),
    "a list": (lambda: [tiny.wan()], "call accelerate_model for each of the 1"),
    "a wrapper": (lambda: torch.nn.Sequential(tiny.wan()), r"WanTransformer3DModel at \.0: pass that"),
    "data parallel": (lambda: torch.nn.DataParallel(tiny.wan()), r"accelerate_model\(x\.module\)"),
    "a part of a model": (lambda: tiny.wan().blocks[0], "WanTransformerBlock holds no supported model"),
    "a layer": (lambda: torch.nn.Linear(2, 2), "Linear has no attention module"),
    "a U-Net": (lambda: UNet2DModel(sample_size=8, **UNET), "Found 6 attention modules"),
    "an encoder": (lambda: BertModel(BertConfig(**BERT)), "is not autoregressive"),
    "a pipeline without a transformer": (
        lambda: Pipeline(unet=torch.nn.Linear(2, 2)),
        "Its models are Linear",
    ),
    "a pipeline whose transformer is none": (lambda: Pipeline(transformer=None), "holds no supported model"),
    "an object": (object, "object holds no supported model"),
}


@mark.parametrize("call", [accelerate_model, plan_for, lambda x: accelerated(x).__enter__()],
                  ids=["accelerate_model", "plan_for", "accelerated"])  # fmt: skip
@mark.parametrize("case", NO_MODELS)
def test_what_is_no_model_says_what_to_pass(case, call):
    make, expected = NO_MODELS[case]
    with raises(TypeError, match=expected):
        call(make())


@mark.parametrize("case", NO_MODELS)
def test_restoring_what_is_no_model_does_nothing_and_its_summary_is_refused(case):
    thing = NO_MODELS[case][0]()
    if not isinstance(thing, type):
        assert restore_model(thing) is thing
    with raises(ValueError, match="is not accelerated; call accelerate_model first"):
        summary(thing)


RECIPES = {
    "misspelt": ("radail", {}, "did you mean 'radial'"),
    "nothing": ("", {}, "no shipped recipe is called ''"),
    "a mapping": ({"rules": []}, {}, "recipe: rules: .*at least 1"),
    "a misspelt mapping": ({"rulse": []}, {}, "recipe: unknown key 'rulse'; did you mean 'rules'"),
    "the class of a method": (Radial, {}, r"rules\[0\].policy: an object is expected.* write Radial\(\)"),
    "an object's misspelt key": (Radial(), {"decai": 1}, "did you mean 'decay'"),
    "the class": (Recipe, {}, "the name of a shipped one or the path"),
    "a number": (3, {}, "got int"),
    "no such file": ("my/none.yaml", {}, "No such file"),
    "another kind of file": ("my/none.json", {}, "a recipe file ends in .yaml"),
    "a path without suffix": (Path("my/radial"), {}, "a recipe file ends in .yaml"),
    "misspelt override": ("radial", {"dense_step": 0.2}, "did you mean 'dense_steps'"),
    "misspelt path": ("radial", {"rules.0.policy.decayy": 1}, "did you mean 'decay'"),
    "path to nowhere": ("radial", {"rules.x.policy": 1}, r"no 'rules\.x'; expected one of: 0"),
    "empty path": ("radial", {"..": 1}, "expected one of: .*description"),
    "text for a number": ("radial", {"dense_steps": "many"}, "got 'many'"),
    "percent for a share": ("radial", {"dense_steps": 20}, "less than or equal to 1, got 20"),
    "none for a number": ("radial", {"dense_steps": None}, "got None"),
    "a function": ("radial", {"decay": lambda: 1}, "valid number, got <function"),
    "misspelt method": ("radial", {"method": "drft"}, "did you mean 'draft'"),
    "a method without what it needs": (
        "radial",
        {"method": "stored"},
        "rules\\[0\\].policy.file: .*got None",
    ),
    "a file of masks that is not there": (
        "radial",
        {"method": "stored", "file": "none.safetensors"},
        "none.safetensors: cannot be read",
    ),
    "a key of another method": ("radial", {"density": 0.3}, "unknown key 'density'"),
    "a sink on a grid": ("llm-a-shape", {}, "are for sequences without a grid, got sink=128"),
}


@mark.parametrize("case", RECIPES)
def test_a_wrong_recipe_touches_nothing(case, model):
    recipe, changes, expected = RECIPES[case]
    with raises(ValueError, match=expected) as caught:
        accelerate_model(model, recipe, **changes)
    assert type(caught.value).__name__ == "RecipeError" and not patches_of(model)
    assert not model._forward_pre_hooks


@mark.parametrize("name", ["radial", "jenga", "draft", "sliding-tile"])
def test_a_recipe_for_video_on_a_language_model_says_so(name):
    with raises(ValueError, match="token grid"):
        accelerate_model(tiny_language.llama(), name)


@mark.parametrize(
    "method", sorted(registered_policies().keys() - {"per_head", "stored"})
)  # These need more than defaults.
def test_a_method_brings_its_own_keys(method):
    changed = override(load_recipe("radial"), {"block_size": [64, 64], "method": method})
    assert changed.rules[0].policy.method == method and changed.rules[0].policy.block_size == (64, 64)


SCHEDULERS = {
    "a name": "euler",
    "a class": UniPCMultistepScheduler,
    "a number": 50,
    "a model": torch.nn.Linear(2, 2),
}


@mark.parametrize("case", SCHEDULERS)
def test_a_scheduler_that_cannot_count_is_refused(case, model):
    with raises(TypeError, match="an object with timesteps"):
        accelerate_model(model, RECIPE, scheduler=SCHEDULERS[case])


def test_a_pipeline_counts_with_its_own_scheduler(model):
    with raises(TypeError, match=r"set pipe\.scheduler"):
        accelerate_model(Pipeline(transformer=model), RECIPE, scheduler=UniPCMultistepScheduler())


def test_processors_of_somebody_else_are_told_of(model):
    model.blocks[0].attn1.set_processor(TheirProcessor())
    with warns(UserWarning, match=r"left alone.*\(TheirProcessor\): blocks\.0\.attn1"):
        accelerate_model(model, RECIPE)
    assert [site.site for site in summary(model).sites] == ["blocks.1.attn1"]
    restore_model(model)
    model.blocks[1].attn1.set_processor(TheirProcessor())
    with raises(ValueError, match=r"TheirProcessor.*set WanAttnProcessor"):
        accelerate_model(model, RECIPE)


def to_meta(model, **_):
    arguments = {key: x.to("meta") if torch.is_tensor(x) else x for key, x in tiny.inputs(model).items()}
    with torch.no_grad():
        assert model.to("meta")(**arguments)[0].is_meta


def in_inference_mode(model, **_):
    with torch.inference_mode():
        model(**tiny.inputs(model))


def with_gradients(model, **_):
    model.requires_grad_(True).train()(**tiny.inputs(model))[0].sum().backward()


def in_half(model, dtype):
    model.to(dtype)
    output(model, **{key: x.to(dtype) for key, x in tiny.inputs(model).items() if key.endswith("states")})


def compiled_in_place(model, **_):
    model.compile(backend="eager")
    output(model)


def with_fp8_weights(model, **_):
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    output(model)


UNUSUAL = {
    "meta tensors": (to_meta, {}, "meta device"),
    "inference mode": (in_inference_mode, {}, None),
    "training": (with_gradients, {}, "gradients are recorded"),
    "float16": (in_half, {"dtype": torch.float16}, None),
    "bfloat16": (in_half, {"dtype": torch.bfloat16}, None),
    "float64": (in_half, {"dtype": torch.float64}, None),
    "compiled in place": (compiled_in_place, {}, None),
    "FP8 weights": (with_fp8_weights, {}, None),
}


@mark.parametrize("case", UNUSUAL)
def test_unusual_settings_run_sparse_or_dense_with_a_reason(case, model):
    run, settings, reason = UNUSUAL[case]
    run(accelerate_model(model, RECIPE), **settings)
    reasons = list(summary(model).dense_reasons)
    assert summary(model).calls == 2 and (not reasons if reason is None else reason in reasons[0])


def test_a_compiled_model_inside_a_pipeline_is_unwrapped(model):
    pipe = accelerate_model(Pipeline(transformer=torch.compile(model, backend="eager")), RECIPE)
    assert patches_of(model) == patches_of(pipe)


def test_errors_are_raised_by_us_and_not_from_deep_inside():
    for make, _ in NO_MODELS.values():
        try:
            require_models(make())
        except TypeError as error:
            assert traceback.extract_tb(error.__traceback__)[-1].filename.endswith("supported.py")


def test_a_recipe_with_a_value_for_each_head_is_tried_with_the_models_heads(model):
    def by_head(*rows):
        radial = {"method": "radial", "block_size": [16, 16]}
        choose = {"kind": "table", "parts": [{"heads": rows}]}
        policy = {"method": "per_head", "candidates": [radial, radial | {"decay": 0.5}], "choose": choose}
        return {"rules": [{"match": "*", "policy": policy}]}

    accelerate_model(model, by_head([0, 1], [1, 1]))
    assert torch.isfinite(output(model)).all()
    with raises(ValueError, match="the table's number of heads in layer 0 is 1, this call's 2"):
        accelerate_model(model, by_head([0], [1]))


@mark.parametrize(
    "wrong",
    [{"timestep": 500}, {"timestep": None}, {"hidden_states": torch.zeros(4, 3, 8, 8)}, "no timestep"],
    ids=["number", "none", "no batch", "missing"],
)
def test_a_wrong_forward_fails_as_that_of_the_stock_model(wrong, model):
    inputs = tiny.inputs(model)
    if isinstance(wrong, dict):
        inputs |= wrong
    else:
        del inputs["timestep"]
    said = []
    for _ in range(2):
        with raises(Exception) as caught:
            model(**inputs)
        said.append((caught.type, str(caught.value)))
        accelerate_model(model, RECIPE)
    assert said[0] == said[1]
