"""UNets: a grid for each resolution, whatever is loaded into them, and what is no plain self-attention."""

from contextlib import suppress
from dataclasses import replace

import diffusers
import torch
from pytest import approx, importorskip, mark, raises, warns

from accel import accelerate_model, restore_model, summary
from accel.accelerate import patches_of
from accel.patches.grid import TokenGrid
from accel.patches.models import find_sites
from accel.recipe.recipe import Recipe
from keep_everything import KeepEverything
from real_pipelines import PIPELINES
from tiny_families import CASES, output
from tiny_images import UNET
from tiny_inputs import noise

SIZE = (1, 12, 10)
output = torch.no_grad()(output)
DEEP = replace(
    CASES["unet"],
    config={
        **UNET,
        "block_out_channels": (16, 16, 32, 32),
        "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    },
)


def recipe(**policy) -> Recipe:
    return Recipe.model_validate({"rules": [{"match": "*", "policy": policy}]})


def keep_everything(model) -> KeepEverything:
    policy = KeepEverything()
    accelerate_model(model, recipe(method="dense"))
    for one in patches_of(model)[0].installed:
        one.attention.policy = policy
    return policy


@mark.parametrize("sides", [(32, 24), (13, 7), (1, 9)], ids=str)
def test_each_site_has_the_grid_of_its_resolution(sides):
    """As Stable Diffusion has it: three resolutions with attention, a fourth in the middle."""
    model, seen = DEEP.model(), {}
    arguments = DEEP.arguments((1, *sides))
    for block in (
        "down_blocks.0",
        "down_blocks.1",
        "down_blocks.2",
        "mid_block",
        "up_blocks.1",
        "up_blocks.3",
    ):
        module = model.get_submodule(f"{block}.attentions.0")
        module.register_forward_pre_hook(lambda _, args, block=block: seen.update({block: args[0].shape[2:]}))
    expected = output(model, arguments)
    policy = keep_everything(model)
    torch.testing.assert_close(output(model, arguments), expected, atol=2e-5, rtol=2e-5)
    assert not summary(model).dense_reasons
    for site in find_sites(model):
        block = ".".join(site.name.split(".")[: 1 if site.name.startswith("mid") else 2])
        if block in seen:
            assert TokenGrid(1, *sides).halved(site.halvings) == TokenGrid(1, *seen[block])
    assert set(policy.grids) == {TokenGrid(1, *size) for size in seen.values()}
    work = {0: 1.0, 1: 1 / 16, 2: 2 / 16**2, 3: 2 / 16**3}  # DEEP's channels double at the second halving.
    assert all(site.work == work[site.halvings] for site in find_sites(model))
    assert [site.name.partition("_")[0] for site in find_sites(model)] == ["down"] * 3 + ["mid"] + ["up"] * 6


def with_lora(model):
    importorskip("peft")
    from peft import LoraConfig

    torch.manual_seed(1)
    model.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_v", "conv"], init_lora_weights=False))
    return {}


def with_ip_adapter(model):
    torch.manual_seed(1)
    numbers = range(1, 2 * len(model.attn_processors), 2)
    attention = {f"{n}.to_{kind}_ip.weight": torch.randn(32, 16) for n in numbers for kind in "kv"}
    projection = {"proj.weight": torch.randn(64, 8), "proj.bias": torch.randn(64)}
    projection |= {"norm.weight": torch.randn(16), "norm.bias": torch.randn(16)}
    model._load_ip_adapter_weights([{"ip_adapter": attention, "image_proj": projection}], False)
    return {"added_cond_kwargs": {"image_embeds": [noise(2, 1, 8)]}}


def with_controlnet(model):
    control = diffusers.ControlNetModel.from_unet(model, conditioning_channels=3).eval()
    for parameter in control.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    arguments = CASES["unet"].arguments(SIZE, batch=2)
    picture = noise(2, 3, 8 * SIZE[1], 8 * SIZE[2])
    down, mid = output_of_control(control, arguments, picture)
    return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}


@torch.no_grad()
def output_of_control(control, arguments, picture):
    return control(**{**arguments, "controlnet_cond": picture})


def with_freeu(model):
    model.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    return {}


def with_fused_projections(model):
    model.fuse_qkv_projections()
    return {}


@mark.parametrize("load", [with_lora, with_ip_adapter, with_controlnet, with_freeu, with_fused_projections])
def test_what_is_loaded_into_a_unet_stays_as_it_is(load):
    case = CASES["unet"]
    model = case.model()
    arguments = {**case.arguments(SIZE, batch=2), **load(model)}
    expected = output(model, arguments)
    keep_everything(model)
    torch.testing.assert_close(output(model, arguments), expected, atol=3e-5, rtol=3e-5)
    assert not summary(model).dense_reasons and summary(model).calls == case.sites
    restore_model(model)
    assert torch.equal(output(model, arguments), expected)


def test_an_ip_adapter_that_is_loaded_later_ends_sparse_attention_and_says_so():
    case = CASES["unet"]
    model = case.model()
    keep_everything(model)
    arguments = {**case.arguments(SIZE, batch=2), **with_ip_adapter(model)}
    with warns(UserWarning, match="another processor"):
        expected = output(model, arguments)
    keep_everything(model)
    torch.testing.assert_close(output(model, arguments), expected, atol=3e-5, rtol=3e-5)


@torch.no_grad()
def test_hidiffusions_windows_move_from_step_to_step_and_repeat_with_the_run():
    case = PIPELINES["stable-diffusion"]
    pipe = case.pipe()
    dense = case.run(pipe, (1, 16, 32))
    accelerate_model(pipe, "hidiffusion", min_tokens=300)
    orders = {}
    for one in patches_of(pipe)[0].installed:
        policy, layer = one.attention.policy, one.site.layer
        one.attention.policy = Watched(policy, orders.setdefault(layer, []))
    sparse = case.run(pipe, (1, 16, 32))
    account = summary(pipe)
    assert account.dense_reasons == {"shorter than 300 tokens": 8} and account.sparse_density == 0.25
    # Three sites of a quarter of the blocks, and four dense ones of a sixteenth of their work.
    assert account.density == approx((3 * 0.25 + 4 / 16) / (3 + 4 / 16))
    assert {layer: turns for layer, turns in orders.items() if turns} == {0: [0, 1], 5: [1, 2], 6: [2, 3]}
    assert torch.equal(case.run(pipe, (1, 16, 32)), sparse) and not torch.equal(sparse, dense)


class Watched:
    """Notes by how many places of its four a method's windows are rolled."""

    static, spans_heads, only_grid = True, False, None

    def __init__(self, policy, turns):
        self.policy, self.turns, self.method = policy, turns, policy.method

    def layout(self, q, k, grid, context):
        layout = self.policy.layout(q, k, grid, context)
        rolled = [self.policy.order.at_turn(turn).positions(grid) for turn in range(4)]
        with suppress(StopIteration):
            self.turns.append(
                next(turn for turn in range(4) if torch.equal(layout.q_order.indices.flatten(), rolled[turn]))
            )
        return layout


def test_pictures_that_are_halved_in_another_way_are_dense_with_that_reason():
    """Without padding odd sides are rounded down."""
    model = accelerate_model(CASES["unet"].model(downsample_padding=0), "hidiffusion", min_tokens=0)
    output(model, CASES["unet"].arguments(SIZE))
    (reason,) = summary(model).dense_reasons
    assert "grid not readable" in reason and "Downsample2D in a way of its own" in reason


def test_attention_that_text_has_a_part_in_is_left_alone():
    """As Kandinsky's and DeepFloyd's UNets have it, and as XL's refiners might."""
    case, blocks = CASES["unet"], {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}
    blocks |= {"down_block_types": ("SimpleCrossAttnDownBlock2D",) * 2}
    blocks |= {"up_block_types": ("SimpleCrossAttnUpBlock2D",) * 2, "attention_head_dim": 16}
    with raises(ValueError, match="UNet2DConditionModel has no self-attention of its own"):
        accelerate_model(case.model(**blocks))
    model = case.model(only_cross_attention=(False, True))
    assert [site.halvings for site in find_sites(model)] == [0, 1, 0, 0]
