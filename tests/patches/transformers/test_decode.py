"""Sparse decoding in whole models: each situation equal to the stock model where the budget covers it."""

import torch
from pytest import mark
from torch._dynamo.testing import CompileCounter
from transformers import DynamicCache, StaticCache

import tiny_language as tiny
from accel import accelerate_model, summary
from accel.accelerate import patches_of
from accel.patches.transformers.mask import NOT_CAUSAL, visible_keys
from accel.recipe.recipe import Recipe
from accel.sites.call_record import CallRecord
from accel.sites.sequence import sequence_decode
from accel.sites.sequence.pays_off import SLOWER
from accel.sites.sequence.sequence_decode import COVERED, MOST_QUERIES

ROOM = 500

pytestmark = mark.usefixtures("inference")


def decoding(model, budget=256, **schedule):
    """Every block of a prompt is kept, so that only decoding can differ from dense."""
    decode = {"budget": budget, "chunks": [64, 32, 16], "keep": [128, 64], "refresh": [8, 4, 2]}
    decode |= {"kind": "stages", "sink": 16, "window": 16}
    policy = {"method": "hip", "sink": 16, "window": 16, "block_size": [16, 16], "decode": decode}
    schedule = {"min_tokens": 0, "sparse_decode": True, **schedule}
    rules = [{"match": "*", "policy": policy}]
    return accelerate_model(model, Recipe.model_validate({"schedule": schedule, "rules": rules}), density=1.0)


def static(model, length=ROOM):
    return StaticCache(config=model.config, max_cache_len=length)


def steps(model, ids, cache, prompt, mask=None, lengths=None):
    """Logits of a prompt and of what follows, one token a forward or as `lengths` say."""
    outputs, start = [], 0
    for length in (prompt, *(lengths or [1] * (ids.shape[1] - prompt))):
        stop = start + length
        extra = {} if mask is None else {"attention_mask": mask[:, :stop]}
        outputs.append(model(ids[:, start:stop], past_key_values=cache, **extra).logits)
        start = stop
    return torch.cat(outputs, dim=1)


def check(build, run, sparse_calls, reasons=None, **options):
    stock, fast = build(), decoding(build(), **options)
    expected, got = run(stock), run(fast)
    account = summary(fast)
    assert account.dense_reasons == (reasons or {})
    assert sum(site.sparse_calls for site in account.sites) == sparse_calls
    torch.testing.assert_close(got, expected, atol=5e-5, rtol=5e-5)
    return fast


@mark.parametrize("build", [tiny.llama, tiny.qwen3, tiny.phi3], ids=["gqa", "qk-norm", "fused"])
def test_a_covering_budget_is_exact_in_a_static_cache(build):
    fast = check(build, lambda model: steps(model, tiny.tokens(112, 2), static(model), 100), 2 + 24)
    assert summary(fast).density < 1, "a static cache's unwritten end is not read"


def test_attention_sinks():
    def build():
        return tiny.gpt_oss(sliding_window=400)

    reasons = {"sliding window": 4}
    check(build, lambda model: steps(model, tiny.tokens(64), static(model), 60), 1 + 1 + 4, reasons)


WAYS = [
    {"num_beams": 3},
    {"prompt_lookup_num_tokens": 5},
    {"assistant_early_exit": 1},
    {"cache_implementation": "static"},
    {"prefill_chunk_size": 32},
]


@mark.filterwarnings("ignore")
@mark.parametrize("way", WAYS, ids=lambda way: next(iter(way)))
def test_every_way_to_generate_gives_the_stock_models_text(way):
    def text(model):
        model.generation_config.eos_token_id = None
        return model.generate(tiny.tokens(97), max_new_tokens=10, do_sample=False, pad_token_id=0, **way)

    fast = decoding(tiny.llama(), budget=64)
    assert torch.equal(text(fast), text(tiny.llama()))
    account = summary(fast)
    assert set(account.dense_reasons) <= {COVERED} and account.calls > 2 * sum(account.dense_reasons.values())


@mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side(side):
    """Both samples go on after the padding; on the right it stays a hole in the cache."""
    mask = torch.ones(2, 80, dtype=torch.long)
    mask[1, slice(0, 25) if side == "left" else slice(45, 70)] = 0

    def run(model):
        logits = steps(model, tiny.tokens(80, 2), static(model), 70, mask)
        return logits * mask[..., None]

    check(tiny.llama, run, 2 + 20)


def test_a_few_tokens_at_once():
    lengths = [1, 3, MOST_QUERIES, 2, 1]
    check(
        tiny.llama, lambda model: steps(model, tiny.tokens(115), static(model), 100, lengths=lengths), 2 + 10
    )


def test_a_few_tokens_at_once_where_all_heads_share_one_key_head():
    def build():
        return tiny.llama(hidden_size=80, num_attention_heads=20, num_key_value_heads=1)

    lengths = [1, MOST_QUERIES]
    check(build, lambda model: steps(model, tiny.tokens(109), static(model), 100, lengths=lengths), 2 + 4)


def test_generation_with_left_padding_in_a_static_cache():
    mask = torch.ones(2, 90, dtype=torch.long)
    mask[1, :21] = 0
    fast = decoding(tiny.llama(), budget=32)
    fast.generate(
        tiny.tokens(90, 2),
        attention_mask=mask,
        max_new_tokens=5,
        do_sample=False,
        cache_implementation="static",
    )
    assert summary(fast).dense_reasons == {}
    assert sum(site.sparse_calls for site in summary(fast).sites) == 2 + 8


def test_a_cache_that_the_budget_covers_is_dense():
    check(
        tiny.llama,
        lambda model: steps(model, tiny.tokens(63), DynamicCache(config=model.config), 60),
        2,
        {COVERED: 6},
    )


def test_softcap_and_windows_stay_dense():
    fast = decoding(tiny.gemma2(), budget=16)
    steps(fast, tiny.tokens(103), static(fast), 100)
    assert summary(fast).dense_reasons == {"logit softcap": 8}
    fast = decoding(tiny.mistral(sliding_window=40), budget=16)
    steps(fast, tiny.tokens(103), DynamicCache(config=fast.config), 100)
    assert summary(fast).dense_reasons == {"sliding window": 6}


def test_a_cache_no_longer_than_its_window_is_dense_for_that_reason():
    fast = decoding(tiny.mistral(sliding_window=200), budget=16)
    steps(fast, tiny.tokens(103), DynamicCache(config=fast.config), 100)
    assert summary(fast).dense_reasons == {"sliding window": 6}


@mark.parametrize("cache", ["dynamic", "static"])
def test_a_small_budget_reads_few_keys(cache, monkeypatch):
    densities = []
    monkeypatch.setattr(CallRecord, "count_sparse", lambda record, density, step: densities.append(density))
    fast = decoding(tiny.llama(), budget=32)
    past = DynamicCache(config=fast.config) if cache == "dynamic" else static(fast)
    logits = steps(fast, tiny.tokens(420), past, 400)
    assert logits.isfinite().all() and not summary(fast).dense_reasons
    prompt, decoded = densities[:2], densities[2:]
    assert min(prompt) > 0.35 and len(decoded) == 40 and max(decoded) < 0.35


def test_without_asking_for_it_decoding_is_dense():
    check(
        tiny.llama,
        lambda model: steps(model, tiny.tokens(62), static(model), 60),
        2,
        {"decode": 4},
        sparse_decode=False,
    )


def test_layers_can_stay_dense():
    check(
        tiny.llama,
        lambda model: steps(model, tiny.tokens(62), static(model), 60),
        1 + 2,
        {"dense layer": 3},
        dense_layers=0.5,
    )


@mark.parametrize("pays", [False, True])
def test_the_machine_is_asked_once_where_no_length_is_given(monkeypatch, pays):
    asked = []
    monkeypatch.setattr(sequence_decode, "decode_pays", lambda *call: asked.append(call) or pays)
    fast = decoding(tiny.llama(), min_tokens=None)
    steps(fast, tiny.tokens(62), static(fast), 60)
    assert summary(fast).dense_reasons == ({SLOWER: 2} if pays else {SLOWER: 6})
    assert len(asked) == 2, "once a layer, not once a token"


def ages(model):
    """For each request that the first layer remembers, the tokens since its first stage ran."""
    memories = patches_of(model)[0].installed[0].attention.memories
    return [memory.decode.age for memory in memories._of_caches.values()]


def test_a_prompt_makes_the_layer_forget():
    fast = decoding(tiny.llama(), budget=32)
    cache = static(fast)
    steps(fast, tiny.tokens(65), cache, 60)
    assert ages(fast) == [4]
    cache.reset()
    steps(fast, tiny.tokens(61), cache, 60)
    assert ages(fast) == [0]


@mark.parametrize("build", [tiny.llama, tiny.qwen3], ids=["llama", "qwen3"])
def test_compiled_decoding_is_one_graph_for_all_tokens(build):
    torch._dynamo.reset()
    plain, fast = decoding(build(), budget=32), decoding(build(), budget=32)
    ids = tiny.tokens(310)
    expected = steps(plain, ids, static(plain), 300)
    graphs = CompileCounter()
    compiled = torch.compile(fast, fullgraph=True, backend=graphs)
    cache = static(fast)
    prompt = fast(ids[:, :300], past_key_values=cache).logits
    counts, tokens = [], []
    for place in range(300, 310):
        tokens.append(compiled(ids[:, place : place + 1], past_key_values=cache).logits)
        counts.append(graphs.frame_count)
    assert counts == [1] * 10
    torch.testing.assert_close(torch.cat([prompt, *tokens], 1), expected, atol=5e-5, rtol=5e-5)


def test_masks_that_say_nothing_of_single_keys_are_left_to_dense():
    assert visible_keys(None, 1, 9) is None
    assert visible_keys(None, 2, 9) == NOT_CAUSAL
    assert visible_keys(torch.full((1, 1, 1, 9), 0.5), 1, 9) == NOT_CAUSAL
    assert visible_keys(torch.zeros(1, 1, 1, 9), 1, 9).all()
    assert visible_keys(torch.ones(2, 4, 1, 9, dtype=torch.bool), 1, 9) == NOT_CAUSAL
    assert visible_keys(torch.ones(2, 1, 1, 9, dtype=torch.bool), 1, 9).shape == (2, 1, 9)
