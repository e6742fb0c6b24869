"""What language models are asked besides one plain prefill: each equal to the stock model, sparse or not."""

import torch
from pytest import approx, mark
from transformers import ContinuousBatchingConfig, DynamicCache, GenerationConfig, StaticCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import tiny_language as tiny
from accel import accelerate_model, summary
from accel.patches.transformers.attention import NAME
from accel.patches.transformers.mask import NOT_CAUSAL
from keep_everything import keep_everything

pytestmark = mark.usefixtures("inference")


def check(build, forward, sparse, dense, **changes):
    """Run a scenario on the stock model and with every block kept; compare outputs and counts."""
    stock, fast = build(**changes), keep_everything(build(**changes))
    expected, got = forward(stock), forward(fast)
    account = summary(fast)
    assert account.dense_reasons == dense
    assert account.sparse_calls == sparse
    if sparse:
        assert account.sparse_density == approx(1)
    torch.testing.assert_close(got, expected, atol=5e-5, rtol=5e-5)


def cached(*lengths, cache=DynamicCache, **cache_options):
    """A forward for each length, all into one cache; the logits of every token."""

    def forward(model):
        past = cache(config=model.config, **cache_options)
        ids, outputs, start = tiny.tokens(sum(lengths)), [], 0
        for length in lengths:
            chunk = ids[:, start : start + length]
            outputs.append(model(chunk, past_key_values=past).logits)
            start += length
        return torch.cat(outputs, dim=1)

    return forward


def test_prefill():
    check(tiny.llama, lambda model: model(tiny.tokens(100)).logits, 2, {})


def test_the_output_can_be_viewed_as_some_models_do():
    layer = keep_everything(tiny.llama(), sparse_decode=True).model.layers[0].self_attn
    q, k = torch.randn(2, 4, 40, 16), torch.randn(2, 2, 40, 16)
    out, _ = ALL_ATTENTION_FUNCTIONS[NAME](layer, q, k, k, None)
    assert out.view(2, 40, 64).shape == (2, 40, 64)


def test_decode():
    check(tiny.llama, cached(90, 1, 1), 2, {"decode": 4})


def test_chunked_prefill():
    check(tiny.llama, cached(64, 64, 37), 6, {})


def test_chunked_prefill_in_generate():
    def generate(model):
        return model.generate(tiny.tokens(100), max_new_tokens=5, do_sample=False, prefill_chunk_size=40)

    check(tiny.llama, generate, 6, {"decode": 8})


def test_multi_turn_append():
    check(tiny.llama, cached(50, 1, 1, 30, 1), 4, {"decode": 6})


def test_static_cache_prefill_and_decode():
    check(tiny.llama, cached(60, 1, cache=StaticCache, max_cache_len=100), 2, {"decode": 2})


def test_static_cache_chunked_prefill():
    check(tiny.llama, cached(40, 40, 1, cache=StaticCache, max_cache_len=100), 4, {"decode": 2})


def padded(side):
    def forward(model):
        ids, mask = tiny.tokens(80, 2), torch.ones(2, 80, dtype=torch.long)
        hidden = slice(0, 30) if side == "left" else slice(50, 80)
        mask[1, hidden] = 0
        logits = model(ids, attention_mask=mask).logits
        logits[1, hidden] = 0
        return logits

    return forward


@mark.parametrize("side", ["left", "right"])
@mark.parametrize("build", [tiny.llama, tiny.gpt_oss], ids=["llama", "sinks"])
def test_padding_is_sparse(build, side):
    check(build, padded(side), 2, {}, **({"sliding_window": 400} if build is tiny.gpt_oss else {}))


@mark.parametrize("side", ["left", "right"])
def test_padding_under_a_window_is_sparse(side):
    check(tiny.gemma3, padded(side), 2, {}, sliding_window=20)


@mark.parametrize("padding", [30, 60], ids="padding={}".format)
def test_a_prompt_in_parts_that_is_padded_on_the_left_is_sparse(padding):
    """The second part begins behind the padding, or inside it."""

    def forward(model):
        ids, mask = tiny.tokens(80, 2), torch.ones(2, 80, dtype=torch.long)
        mask[1, :padding] = 0
        past = DynamicCache(config=model.config)
        model(ids[:, :50], attention_mask=mask[:, :50], past_key_values=past)
        logits = model(ids[:, 50:], attention_mask=mask, past_key_values=past).logits
        return logits * mask[:, 50:, None]

    check(tiny.llama, forward, 4, {})


def test_padding_on_the_left_changes_nothing_of_a_sample():
    """Alone or beside a longer one: the same blocks are chosen and the same tokens come out."""
    policy = {"method": "permuted", "segment": 64, "block_size": [32, 32], "probes": 32}
    policy |= {"select": {"kind": "top_k", "density": 0.3}}
    changes = {"min_tokens": 0, "dense_queries": 20, "rules.0.policy": policy}
    model = accelerate_model(tiny.llama(), "llm-permuted", **changes)
    short, long = tiny.tokens(600), tiny.tokens(900, seed=1)
    alone = model(short).logits
    ids = torch.cat([torch.nn.functional.pad(short, (300, 0)), long])
    mask = torch.ones_like(ids)
    mask[0, :300] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    beside = model(ids, attention_mask=mask, position_ids=positions).logits[:1, 300:]
    account = summary(model)
    assert account.dense_reasons == {} and account.sparse_density < 0.9
    torch.testing.assert_close(beside, alone, atol=5e-5, rtol=5e-5)


def test_padded_decode():
    def generate(model):
        mask = torch.ones(2, 40, dtype=torch.long)
        mask[1, :11] = 0
        ids = tiny.tokens(40, 2)
        return model.generate(ids, attention_mask=mask, max_new_tokens=4, do_sample=False)

    check(tiny.llama, generate, 2, {"decode": 6})


@mark.parametrize("build", [tiny.mistral, tiny.gemma3], ids=["mistral", "gemma3"])
@mark.parametrize("length", [30, 100], ids=["inside-window", "beyond-window"])
def test_sliding_windows(build, length):
    check(build, lambda model: model(tiny.tokens(length)).logits, 2, {}, sliding_window=40)


@mark.parametrize("build", [tiny.mistral, tiny.gemma3], ids=["mistral", "gemma3"])
def test_sliding_windows_with_a_cache(build):
    check(build, cached(60, 50, 1), 4, {"decode": 2}, sliding_window=40)


def test_windowed_layers_lose_nothing_whatever_the_recipe():
    """Every layer of this model has a window: only its blocks are read, and no key in it is dropped."""
    stock = tiny.mistral(sliding_window=100)
    fast = accelerate_model(tiny.mistral(sliding_window=100), "llm-a-shape", min_tokens=0, dense_layers=0)
    ids = tiny.tokens(900)
    torch.testing.assert_close(fast(ids).logits, stock(ids).logits, atol=5e-5, rtol=5e-5)
    account = summary(fast)
    assert account.dense_reasons == {} and account.sparse_density < 0.6


def test_softcap_is_dense():
    check(tiny.gemma2, cached(30, 20, 1), 0, {"logit softcap": 6}, sliding_window=400)


def test_softcap_of_none_is_sparse():
    check(tiny.gemma2, cached(30, 20), 4, {}, sliding_window=400, attn_logit_softcapping=None)


def test_attention_sinks_are_sparse_and_exact():
    check(tiny.gpt_oss, cached(70, 50, 1), 4, {"decode": 2}, sliding_window=400)


def test_a_sink_changes_the_output():
    model = keep_everything(tiny.gpt_oss(sliding_window=400))
    before = model(tiny.tokens(50)).logits
    for layer in model.model.layers:
        layer.self_attn.sinks.add_(3)
    assert not torch.allclose(model(tiny.tokens(50)).logits, before, atol=1e-3)


def test_latent_attention_heads_are_dense():
    reason = "values of 16 and keys of 24 numbers a head"
    check(tiny.deepseek, cached(50, 1), 0, {reason: 4})


@mark.parametrize("implementation", ["eager", "sdpa"])
def test_output_attentions_returns_the_weights(implementation):
    eager, fast = tiny.llama(attn_implementation="eager"), tiny.llama(attn_implementation=implementation)
    expected = eager(tiny.tokens(60), output_attentions=True)
    keep_everything(fast)
    got = fast(tiny.tokens(60), output_attentions=True)
    assert summary(fast).dense_reasons == {"attention weights are asked for": 2}
    torch.testing.assert_close(got.logits, expected.logits, atol=5e-5, rtol=5e-5)
    for a, b in zip(got.attentions, expected.attentions, strict=True):
        torch.testing.assert_close(a, b, atol=5e-5, rtol=5e-5)


@mark.parametrize("implementation", ["eager", "sdpa"])
def test_cross_attention_and_encoders_are_left_alone(implementation):
    def forward(model):
        sound = torch.randn(1, 8, 40, generator=torch.Generator().manual_seed(0))
        return model(input_features=sound, decoder_input_ids=tiny.tokens(50)).logits

    check(tiny.whisper, forward, 2, {}, attn_implementation=implementation)
    model = keep_everything(tiny.whisper())
    assert [site.site for site in summary(model).sites] == [
        f"model.decoder.layers.{layer}.self_attn" for layer in range(2)
    ]


def test_position_bias_is_dense():
    def forward(model):
        return model(input_ids=tiny.tokens(40), decoder_input_ids=tiny.tokens(50, seed=2)).logits

    check(tiny.t5, forward, 0, {"position bias": 2})


def test_vision_tower_and_image_tokens():
    def forward(model):
        ids = tiny.tokens(60)
        ids[0, 10], ids[0, 11:15] = 92, 90
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randn(16, 3 * 2 * 4 * 4, generator=generator)
        types = (ids == 90).long()
        grid = torch.tensor([[1, 4, 4]])
        return model(ids, pixel_values=pixels, image_grid_thw=grid, mm_token_type_ids=types).logits

    check(tiny.qwen25_vl, forward, 2, {})


def test_only_the_full_attention_layers_of_a_hybrid_are_sites():
    check(tiny.qwen3_next, lambda model: model(tiny.tokens(70)).logits, 1, {})


def test_eager_models_stay_eager_where_they_are_dense():
    check(tiny.llama, cached(40, 30, 1), 4, {"decode": 2}, attn_implementation="eager")


def test_a_mask_of_the_users_own_is_dense():
    mask = torch.ones(1, 1, 40, 40, dtype=torch.bool).tril()
    mask[..., 5:, :5] = False
    check(tiny.llama, lambda model: model(tiny.tokens(40), attention_mask=mask).logits, 0, {NOT_CAUSAL: 2})


def test_packed_sequences_are_dense():
    positions = torch.cat([torch.arange(25), torch.arange(15)])[None]

    def forward(model):
        return model(tiny.tokens(40), position_ids=positions, use_cache=False).logits

    check(tiny.llama, forward, 0, {NOT_CAUSAL: 2})


@mark.parametrize("static", [False, True], ids=["dynamic", "static"])
def test_decode_can_run_sparse(static):
    options = {"cache": StaticCache, "max_cache_len": 100} if static else {}
    forward = cached(60, 1, 1, **options)
    stock, fast = tiny.llama(), keep_everything(tiny.llama(), sparse_decode=True, dense_queries=20)
    expected, got = forward(stock), forward(fast)
    assert summary(fast).dense_reasons == {} and summary(fast).sparse_density == approx(1)
    torch.testing.assert_close(got, expected, atol=5e-5, rtol=5e-5)


DECODE = {"budget": 64, "sink": 64, "window": 64}
HIP = {f"rules.0.policy.decode.{key}": value for key, value in DECODE.items()}
CHANGES = {
    "llm-hip": HIP,
    "llm-quest": {"rules.0.policy.decode": {"kind": "bounds", **DECODE}},
    "llm-wanted": {"rules.0.policy.decode": {"kind": "channels", **DECODE}},
}
OTHERS = ["llm-permuted", "llm-xattention", "llm-a-shape", "llm-vertical-slash", "llm-flexprefill"]


@mark.parametrize("recipe", [*CHANGES, *OTHERS])
def test_sparse_decode_of_shipped_recipes(recipe):
    changes = dict(CHANGES.get(recipe, {}))
    changes |= {"min_tokens": 0, "sparse_decode": True, "dense_layers": 0}
    model = accelerate_model(tiny.llama(), recipe, **changes)
    assert cached(700, 1, 1)(model).isfinite().all()
    assert summary(model).dense_reasons == {}


def test_text_is_generated_as_by_the_stock_model():
    settings = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    model = tiny.llama()
    stock = model.generate(tiny.tokens(80), **settings)
    accelerate_model(model, "llm-permuted", min_tokens=0, dense_layers=0)
    assert model.generate(tiny.tokens(80), **settings).shape == stock.shape
    assert summary(model).dense_reasons == {"decode": 3 * model.config.num_hidden_layers}
    keep_everything(model)
    assert torch.equal(model.generate(tiny.tokens(80), **settings), stock)


def test_continuous_batching_is_dense_as_by_the_stock_model():
    prompts = [tiny.tokens(40, seed=seed)[0].tolist() for seed in (1, 2, 3)]
    settings = GenerationConfig(max_new_tokens=3, do_sample=False, eos_token_id=-1, pad_token_id=0)
    pages = ContinuousBatchingConfig(num_blocks=40, page_size=16, max_batch_tokens=64)

    def answers(model):
        outputs = model.generate_batch(
            prompts, generation_config=settings, continuous_batching_config=pages, progress_bar=False
        )
        return [output.generated_tokens for output in outputs.values()]

    model = tiny.llama()
    stock = answers(model)
    accelerate_model(model, "llm-permuted", min_tokens=0, dense_layers=0)
    assert answers(model) == stock
    reasons = summary(model).dense_reasons
    assert reasons and all("cu_seq_lens_q" in reason for reason in reasons)
