"""Models that hand block masks to FlexAttention: the grids' runs are these masks, and others stay dense."""

import torch
from pytest import fixture, mark, raises
from torch._dynamo.testing import CompileCounter
from torch.nn.attention.flex_attention import create_block_mask

from accel import accelerate_model, restore_model, summary
from accel.patches.diffusers.block_mask import shows
from accel.patches.diffusers.family import family_of
from accel.patches.grid import Run, TokenGrid
from accel.recipe.recipe import Recipe
from keep_everything import KeepEverything
from tiny_families import CASES, output
from tiny_inputs import DIM, HEADS, noise

FAR, ANIMATE = CASES["anyflow-far"], CASES["wan-animate2"]
SIZE = (3, 8, 9)
POOLED = {
    "method": "compose",
    "score": {"kind": "pooled"},
    "select": {"kind": "top_p", "mass": 0.5},
    "block_size": [16, 16],
}


def recipe(policy, **rest) -> Recipe:
    return Recipe.model_validate({"rules": [{"match": "*", "policy": policy}], **rest})


@fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def far_arguments(chunks: list[int], height: int = 10, width: int = 13) -> dict:
    frames = sum(chunks)
    return {
        "hidden_states": noise(1, frames, 4, 2 * height, 2 * width),
        "timestep": torch.zeros(1, frames),
        "r_timestep": torch.zeros(1, frames),
        "encoder_hidden_states": noise(1, 5, 16),
        "chunk_partition": chunks,
    }


def cache(chunks: list[int], tokens: int = 130 * 3) -> list[dict]:
    def room():
        return torch.zeros(2, 1, HEADS, tokens * len(chunks), DIM)

    return [{"full_cache": room(), "compressed_cache": room()} for _ in range(3)]


@mark.parametrize("mode", ["train", "cache"])
@mark.parametrize("chunks", [[2], [1, 3], [1, 2, 3, 1], [1, 3, 3, 3, 2]], ids=str)
def test_runs_of_chunks_at_two_resolutions_are_the_models_mask(mode, chunks):
    model, arguments = FAR.model(), far_arguments(chunks)
    if mode == "cache":
        arguments |= {"kv_cache": cache(chunks), "kv_cache_flag": {"is_cache_step": True}}
    grid = family_of(model).read_grid(model, (), arguments)
    mask = model.build_attention_mask(chunk_partition=chunks, height=20, width=26, mode=mode)
    assert shows(mask, grid)
    first = grid.runs[0]
    other = (first._replace(tokens=first.tokens - 1), first._replace(tokens=1, first=first.first + 1))
    assert not shows(mask, TokenGrid(**{**vars(grid), "runs": (*other, *grid.runs[1:])}))


@mark.parametrize("frames", [3, 2], ids=["full", "room-left"])
def test_runs_of_references_are_the_models_mask_and_keeping_everything_is_dense(frames):
    """Also where a segment leaves room for a frame, whose keys are zeros that everybody sees."""
    model, arguments = ANIMATE.model(), ANIMATE.arguments((frames, 8, 9), batch=2)
    arguments |= {"origin_len": 4 * (3 - 2) + 1}
    expected = output(model, arguments)
    grid = family_of(model).read_grid(model, (), arguments)
    (mask,) = model.block_masks.values()
    assert shows(mask, grid) and grid.frames == frames
    accelerate_model(model, KeepEverything())
    torch.testing.assert_close(output(model, arguments), expected, atol=3e-5, rtol=3e-5)
    assert not summary(model).dense_reasons


def test_a_frame_reads_no_references_but_its_own():
    model, arguments = ANIMATE.model(), ANIMATE.arguments(SIZE)
    accelerate_model(model, recipe(POOLED))
    before = output(model, arguments)
    first = model.blocks[0].self_attn
    seen = []
    handle = first.register_forward_hook(lambda module, args, out: seen.append(out))
    output(model, arguments)
    keys = arguments["kv_cache"].get(0).key
    arguments["kv_cache"].get(0).value = arguments["kv_cache"].get(0).value + torch.where(
        torch.arange(keys.shape[1])[:, None, None] < 72, 1.0, 0.0
    )
    after = output(model, arguments)
    handle.remove()
    # References of the first 72 tokens are those of the second frame.
    changed = (seen[0] != seen[1]).any(dim=2)[0].view(3, 72).any(dim=1)
    assert changed.tolist() == [False, True, False] and not torch.equal(before, after)
    assert summary(model).sparse_density < 1 and not summary(model).dense_reasons


def test_compiled_blocks_are_cut_at_attention_and_compute_the_same():
    model, arguments = FAR.model(num_layers=1), FAR.arguments(SIZE)
    accelerate_model(model, recipe(POOLED))
    expected = output(model, arguments)
    graphs = CompileCounter()
    model.compile_repeated_blocks(backend=graphs)
    torch.testing.assert_close(output(model, arguments), expected, atol=1e-5, rtol=1e-5)
    assert graphs.frame_count > 1 and summary(model).calls == 2 and not summary(model).dense_reasons


def test_heads_filled_up_to_the_dims_of_flex_attention_have_their_own_scale():
    model, arguments = FAR.model(attention_head_dim=8), FAR.arguments(SIZE)
    arguments["kv_cache"] = [
        {name: stored[..., :8].clone() for name, stored in layer.items()} for layer in arguments["kv_cache"]
    ]
    expected = output(model, arguments)
    accelerate_model(model, KeepEverything())
    torch.testing.assert_close(output(model, arguments), expected, atol=3e-5, rtol=3e-5)
    assert summary(model).sparse_density == 1 and not summary(model).dense_reasons


def test_another_mask_stays_dense_with_that_reason():
    def diagonal(b, h, query, key):
        return query == key

    model, arguments = FAR.model(), far_arguments([1, 2])
    tokens = family_of(model).read_grid(model, (), arguments).tokens
    arguments["attention_mask"] = create_block_mask(diagonal, None, None, tokens, tokens, device="cpu")
    expected = output(model, {**arguments, "return_dict": False})
    accelerate_model(model, recipe(POOLED))
    assert torch.equal(output(model, {**arguments, "return_dict": False}), expected)
    assert summary(model).dense_reasons == {"attention mask": 3}


@mark.parametrize("case", [FAR, ANIMATE], ids=["far", "animate"])
def test_dense_calls_are_the_stock_ones_and_a_backend_can_be_chosen_and_stays(case):
    model, arguments = case.model(), case.arguments(SIZE)
    expected = output(model, arguments)
    accelerate_model(model, recipe({"method": "dense"}))
    assert torch.equal(output(model, arguments), expected)
    assert summary(model).dense_reasons == {"dense by recipe": 3}
    processor = next(iter(model.blocks)).get_submodule("attn1" if case is FAR else "self_attn").processor
    processor._attention_backend = "_native_math"
    restore_model(model)
    assert processor.original._attention_backend == "_native_math"


def test_runs_of_a_grid_add_up_to_its_tokens():
    assert TokenGrid(1, 2, 2, runs=(Run.chunk(4, 0), Run.padding(0))).runs == (Run.chunk(4, 0),)
    assert not TokenGrid(1, 2, 2, runs=(Run.keys(3), Run.chunk(1, 0))).hides
    assert TokenGrid(1, 2, 2, runs=(Run.chunk(3, 0), Run.chunk(1, 1))).hides
    with raises(ValueError, match="runs must add up to the 4 tokens"):
        TokenGrid(1, 2, 2, runs=(Run.chunk(3, 0),))
