"""The peak of a block with acceleration is at most that of dense plus the margin docs/faults.md states."""

import gc

import pytest
import torch

from accel import accelerate_model, restore_model, summary
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.recipe.files import load_recipe
from accel.sites.grid.call import Call
from accel.sites.grid.residual import Residual
from block_memory import full_size_peaks, inputs, peaks, planned_without_numbers, wan_block
from memory_meter import MemoryMeter, peak_bytes

MARGIN = 1.05
pytestmark = pytest.mark.usefixtures("one_thread")
RECIPES = ["radial", "draft", "auto", "permuted", "xattention", "pisa", "nabla"]


def test_the_meter_counts_what_lives_and_forgets_what_does_not():
    x = torch.zeros(1000)
    assert peak_bytes(lambda: x.view(10, 100)) == 0
    assert peak_bytes(lambda: ((x + 1) + 1) + 1) == 8000
    assert peak_bytes(lambda: [x + n for n in range(5)]) == 20_000
    with MemoryMeter() as meter:
        y = x + 1
        del y
    assert (meter.live, meter.peak) == (0, 4000)


@pytest.mark.filterwarnings("ignore")
def test_a_real_block_on_the_cpu():
    model = wan_block("cpu", torch.float32, num_attention_heads=4, attention_head_dim=64, ffn_dim=1536)
    found = peaks(model, inputs(model, 5, 18, 20), [*RECIPES, "hip"])
    over = {name: peak / found["dense"] for name, peak in found.items() if peak > MARGIN * found["dense"]}
    assert not over


@pytest.mark.filterwarnings("ignore")
def test_a_block_of_14b_parameters_at_720p():
    found, queries = full_size_peaks(RECIPES)
    assert found["dense"] > 10 * queries
    over = {name: peak / found["dense"] for name, peak in found.items() if peak > MARGIN * found["dense"]}
    assert not over


def test_a_residual_at_720p_takes_less_than_the_feed_forward():
    """Beyond queries, keys and values; the block's peak, in its feed-forward, is 12 times its queries."""
    grid, recipe = TokenGrid(21, 45, 80), load_recipe("auto")
    q, k, v = torch.empty(3, 1, 40, grid.tokens, 128, dtype=torch.bfloat16, device="meta")
    layout = recipe.rules[0].policy.layout(q, k, grid, Context(grid=grid))
    site, kept, out = Residual(recipe.compensate), {}, torch.empty_like(q)

    def at(step):
        return Call(Context(grid=grid, step=step, n_steps=50, progress=step / 50, turn=step), "key", kept)

    with planned_without_numbers():
        captured = peak_bytes(lambda: site.capture((q, k, v), layout, at(9)))
        added = peak_bytes(lambda: site.apply(out, v, at(12)))
    assert captured < 6.2 * q.nbytes and added < 0.1 * q.nbytes


@pytest.mark.filterwarnings("ignore")
def test_restoring_gives_all_memory_back():
    model = wan_block("cpu", torch.float32, num_attention_heads=2, attention_head_dim=16, ffn_dim=64)
    arguments = inputs(model, 3, 8, 10)
    with torch.no_grad():
        for name in ("auto", "draft"):
            accelerate_model(model, name, min_tokens=0)
            model(**arguments)
            restore_model(model)
        with MemoryMeter() as meter:
            for name in ("auto", "draft"):
                accelerate_model(model, name, min_tokens=0)
                model(**arguments)
                restore_model(model)
            gc.collect()
    assert meter.live == 0


@pytest.mark.parametrize("recipe", ["llm-wanted", "llm-permuted-bounds", "llm-xattention"])
@torch.no_grad()
def test_a_prompt_takes_no_more_than_dense(recipe):
    """A layer of a Llama of width 512 on 8,192 tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=512, intermediate_size=1792, num_hidden_layers=1, num_attention_heads=8,
        num_key_value_heads=2, vocab_size=256, max_position_embeddings=8192,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    tokens = torch.arange(8192)[None] % 256
    with MemoryMeter() as dense:
        model.model(tokens, use_cache=False)
    accelerate_model(model, recipe, min_tokens=0)
    with MemoryMeter() as sparse:
        model.model(tokens, use_cache=False)
    assert summary(model).sparse_density < 1
    # Counts and densities that are kept are single numbers.
    assert sparse.peak <= 1.001 * dense.peak, f"{sparse.peak / dense.peak:.3f} of dense"
