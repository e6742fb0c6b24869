"""Decoding with Hip: exact budgets, reuse between tokens, what is always kept, and the published search."""

import copy
import pickle
from dataclasses import replace

import torch
from pytest import approx, fixture, mark, raises

from accel.kernels.decode.attention import decode_attention, grouped
from accel.policies.decode import stages as decode_module
from accel.policies.decode.bounds import DecodeByBounds, best_corner, boxes
from accel.policies.decode.channels import DecodeByChannels
from accel.policies.decode.memory import DecodeMemory
from accel.policies.decode.search import extent
from accel.policies.decode.stages import Decode
from accel.policies.search.probing import best_logits
from accel.policies.search.stages import Stage, search_stages

SINK, WINDOW = 20, 50
ENDS = {"sink": SINK, "window": WINDOW}
SMALL = Decode(budget=64, chunks=(64, 32, 16), keep=(256, 128), refresh=(8, 4, 2), **ENDS)
BOUNDS = DecodeByBounds(budget=64, refresh=(8, 2), **ENDS)
CHANNELS = DecodeByChannels(budget=64, refresh=(8, 2), **ENDS)


@fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def qkv(length=700, queries=1, batch=2, heads=4, kv_heads=2, dim=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((heads, queries), (kv_heads, length), (kv_heads, length))
    return [torch.randn(batch, h, n, dim, generator=generator) for h, n in shapes]


def seen(layout, batch=2):
    """Bool [B, Hkv, N]: the keys that are listed."""
    return layout.to_mask(batch)[:, :, -1]


def between(begins, ends, length=700, queries=1):
    keys, query = torch.arange(length), torch.arange(queries)[:, None]
    begins, ends = (torch.tensor(x)[:, None, None] for x in (begins, ends))
    return (keys >= begins) & (keys <= ends - queries + query)


@fixture(params=[SMALL, BOUNDS, CHANNELS], ids=lambda search: search.kind)
def search(request):
    return request.param


@mark.parametrize("length", [400, 641, 700])
def test_sink_and_window_are_kept_and_the_budget_is_a_number_of_keys(search, length):
    q, k, _ = qkv(length)
    layout = search.layout(q, k, None, DecodeMemory())
    keys = seen(layout)
    assert keys[..., :SINK].all() and keys[..., length - 1 - WINDOW :].all()
    always = -(-SINK // 16) * 16 + length - (length - 1 - WINDOW) // 16 * 16
    assert (keys.sum(-1) == always + search.budget).all()


def test_the_cache_may_grow_without_more_keys_being_read(search):
    counts = [search.layout(*qkv(n)[:2], None, DecodeMemory()).kv_num_blocks.max() for n in (400, 4000)]
    assert abs(int(counts[0] - counts[1])) <= 1


SEEN = [([0, 0], [600, 600]), ([0, 130], [600, 600]), ([5, 0], [640, 300])]


@mark.parametrize(("visible", "queries"), [(None, 1), *((x, n) for x in SEEN for n in (1, 3))], ids=str)
def test_a_budget_that_covers_the_cache_is_dense_attention(search, visible, queries):
    q, k, v = qkv(queries=queries)
    mask = None if visible is None else between(*visible, queries=queries)
    policy = replace(search, budget=640)
    memory = DecodeMemory()
    layout = policy.layout(q, k, mask, memory)
    dense = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, None if mask is None else mask[:, None], enable_gqa=True
    )
    torch.testing.assert_close(decode_attention(q, k, v, layout, mask)[0], dense, atol=1e-5, rtol=1e-5)


def test_no_key_is_lost_between_searches(search):
    """With a budget for everything every token is dense, those after a search too."""
    policy = replace(search, budget=512)
    memory = DecodeMemory()
    ages = []
    for length in range(500, 521):
        q, k, v = qkv(length)
        layout = policy.layout(q, k, None, memory)
        dense = torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        torch.testing.assert_close(decode_attention(q, k, v, layout)[0], dense, atol=1e-5, rtol=1e-5)
        ages.append(memory.age)
    assert ages == list(range(21))


def test_padding_on_the_left_moves_the_sink(search):
    q, k, _ = qkv()
    layout = search.layout(q, k, between([0, 300], [700, 700]), DecodeMemory())
    keys = seen(layout)
    assert keys[1, :, 300 : 300 + SINK].all() and not keys[1, :, :288].any()
    assert keys[0, :, :SINK].all()


def test_nothing_unwritten_is_chosen(search):
    q, k, _ = qkv()
    k[:, :, 400:] = 100 * q.reshape(2, 2, 2, 1, 16).mean(2)
    layout = search.layout(q, k, between([0, 0], [400, 300]), DecodeMemory())
    keys = seen(layout)
    assert not keys[0, :, 416:].any() and not keys[1, :, 304:].any()
    assert keys[1, :, 300 - 1 - WINDOW : 300].all()


def test_samples_are_searched_alone(search):
    q, k, _ = qkv()
    both = search.layout(q, k, between([0, 80], [650, 500]), DecodeMemory())
    alone = search.layout(q[1:], k[1:], between([80], [500]), DecodeMemory())
    assert torch.equal(seen(both)[1:], seen(alone, 1))


def test_the_search_is_that_of_a_prompts_queries():
    """Without reuse all stages but the last are those of `search_stages`; here no heads share keys."""
    q, k, _ = qkv(700, heads=2)
    layout = SMALL.layout(q, k, None, DecodeMemory())
    first, stop = -(-SINK // 16) * 16, (700 - 1 - WINDOW) // 16 * 16
    queries = grouped(q, 2)[:, :, None].float()
    stages = [Stage(1, 64, stop - first), Stage(1, 32, 256)]
    found, valid = search_stages(
        lambda _, places: best_logits(queries, k, places), stages, 128, first, torch.tensor([stop]), stop
    )
    assert valid.all()
    mass = (q @ k.mT / 4).exp()[..., 0, first:stop].unflatten(-1, (-1, 16)).sum(-1)
    left = torch.zeros_like(mass, dtype=torch.bool).scatter(-1, (found[:, :, 0] - first) // 16, True)
    left |= left.roll(1, -1)  # a chunk of 32 is two blocks
    middle = seen(layout)[..., first:stop].unflatten(-1, (-1, 16)).any(-1)
    best = mass.masked_fill(~left, 0).topk(4).indices
    assert torch.equal(middle, torch.zeros_like(middle).scatter(-1, best, True))


def test_a_head_with_small_logits_is_not_outvoted():
    """Heads compare by their shares of attention: the other head's logits are all larger."""
    q, k, _ = qkv(700, heads=2, kv_heads=1, batch=1)
    a, b = q[0, :, 0]
    q[0, 1] = b - a * (a @ b) / (a @ a)
    q[:, 0] *= 20
    k[:, :, 304:320] = 4 * q[:, 1:]
    assert (q @ k.mT)[0, 0, 0].topk(64).values.min() > (q @ k.mT)[0, 1, 0, 304]
    search = replace(SMALL, chunks=(16,), keep=(), refresh=(1,))
    assert seen(search.layout(q, k, None, DecodeMemory()), 1)[0, 0, 304:320].all()


def test_a_stage_serves_its_tokens_and_then_runs_again():
    q, k, _ = qkv(900, heads=2)
    memory = DecodeMemory()
    found_at = []
    for token, length in enumerate(range(600, 620)):
        if token == 1:
            k[0, :, 304:320] = 6 * q[0, :, :1]
        layout = SMALL.layout(q, k[:, :, :length].clone(), None, memory)
        if seen(layout)[0, :, 304:320].all():
            found_at.append(token)
    assert found_at and found_at[0] in (2, 4, 8), "found when a stage that can see it runs, not before"
    assert found_at == list(range(found_at[0], 20)), "and kept"


@mark.parametrize(
    ("refresh", "expected"),
    [((8, 4, 2), [0, None, 2, None, 1, None, 2, None, 0, None]), ((1, 1, 1), [0] * 10)],
    ids=["stages", "always"],
)
def test_the_first_stage_that_is_due_runs_with_all_after_it(refresh, expected):
    memory = DecodeMemory()
    q = torch.zeros(1, 2, 1, 4)
    due = [memory.first_due(refresh, q, torch.zeros(1, 1, 100 + n, 4)) for n in range(10)]
    assert due == expected


def test_a_static_cache_goes_on_in_the_same_memory():
    memory, cache = DecodeMemory(), torch.zeros(1, 1, 100, 4)
    q = torch.zeros(1, 2, 1, 4)
    assert [memory.first_due((4, 2), q, cache) for _ in range(4)] == [0, None, 1, None]
    assert memory.first_due((4, 2), q, cache.clone()) == 0


CHANGES = {
    "shorter": (torch.zeros(1, 2, 1, 4), torch.zeros(1, 1, 99, 4)),
    "jump": (torch.zeros(1, 2, 1, 4), torch.zeros(1, 1, 110, 4)),
    "batch": (torch.zeros(2, 2, 1, 4), torch.zeros(2, 1, 101, 4)),
    "queries": (torch.zeros(1, 2, 2, 4), torch.zeros(1, 1, 101, 4)),
    "type": (torch.zeros(1, 2, 1, 4).half(), torch.zeros(1, 1, 101, 4).half()),
}


@mark.parametrize("changed", CHANGES.values(), ids=CHANGES.keys())
def test_anything_else_starts_anew(changed):
    memory = DecodeMemory()
    assert memory.first_due((4, 2), torch.zeros(1, 2, 1, 4), torch.zeros(1, 1, 100, 4)) == 0
    assert memory.first_due((4, 2), *changed) == 0


def test_a_token_between_two_searches_computes_nothing(search):
    memory, layouts = DecodeMemory(), []
    q, k, _ = qkv(700)
    for length in (600, 601, 602):
        layouts.append(search.layout(q, k[:, :, :length], None, memory))
    first, second, third = (layout.kv_indices.data_ptr() for layout in layouts)
    assert first == second != third, "the finest stage serves two tokens"
    assert layouts[0].density is layouts[1].density and 0 < layouts[0].density < 1


def test_copies_remember_nothing_and_forgetting_frees_the_memory(search):
    q, k, _ = qkv(700)
    memory = DecodeMemory()
    search.layout(q, k, None, memory)
    for copied in (copy.deepcopy(memory), pickle.loads(pickle.dumps(memory))):
        assert copied.found is None and copied.age == 0
    assert memory.found is not None
    memory.forget()
    assert memory.found is None


def test_forgetting_starts_anew():
    memory, q = DecodeMemory(), torch.zeros(1, 2, 1, 4)
    memory.first_due((4, 2), q, torch.zeros(1, 1, 100, 4))
    memory.forget()
    assert memory.first_due((4, 2), q, torch.zeros(1, 1, 101, 4)) == 0


def test_a_new_text_in_an_old_static_cache_loses_nothing_it_has_to_keep(search):
    """A text of one token sends no prefill: what was found for the old one is out of date, never wrong."""
    q, k, v = qkv(700)
    memory = DecodeMemory()
    search.layout(q, k, between([0, 0], [690, 690]), memory)
    for end in range(1, 40):
        mask = between([0, 0], [end, end])
        layout = search.layout(q, k, mask, memory)
        dense = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask[:, None], enable_gqa=True)
        torch.testing.assert_close(decode_attention(q, k, v, layout, mask)[0], dense, atol=1e-5, rtol=1e-5)


def test_planning_needs_no_values(search):
    q, k = (torch.empty(2, heads, n, 16, device="meta") for heads, n in ((4, 1), (2, 900)))
    visible = torch.empty(2, 1, 900, dtype=torch.bool, device="meta")
    for mask in (None, visible):
        memory = DecodeMemory()
        for _ in range(3):
            assert search.layout(q, k, mask, memory).device.type == "meta"


@mark.parametrize("length", [64, 70, 81])
def test_boxes_hold_their_keys_and_corners_bound_their_scores(length):
    q, k, _ = qkv(length, queries=3)
    low, high = boxes(k, 16)
    bound = best_corner(grouped(q, 2), low, high)
    scores = (grouped(q, 2) @ k.transpose(-1, -2)).amax(2)
    for block, first in enumerate(range(0, length, 16)):
        keys = k[:, :, first : first + 16]
        assert torch.equal(low[:, :, block], keys.amin(2)) and torch.equal(high[:, :, block], keys.amax(2))
        assert (bound[..., block] >= scores[..., first : first + 16].amax(-1) - 1e-5).all()


@mark.parametrize("place", range(32, 600, 37))
def test_bounds_find_a_single_outstanding_key_anywhere(place):
    q, k, _ = qkv(700, heads=2)
    k[:, :, place] = 4 * q[:, :, 0]
    layout = replace(BOUNDS, budget=16, sink=16, window=16).layout(q, k, None, DecodeMemory())
    assert seen(layout)[..., place].all()


@mark.parametrize("heads", [2, 4])
def test_all_channels_find_the_blocks_of_most_attention_of_any_head(heads):
    q, k, _ = qkv(heads=heads)
    search = replace(CHANNELS, channels=1.0, sink=16, window=16)
    keys = seen(search.layout(q, k, None, DecodeMemory()))
    logits = (grouped(q, 2) @ k.transpose(-1, -2)) / 4
    shares = logits[..., 16:672].softmax(-1).unflatten(-1, (-1, 16)).sum(-1).amax(2)
    best = shares.topk(4, dim=-1).indices
    assert keys[..., 16:672].unflatten(-1, (-1, 16)).all(-1).gather(-1, best).all()
    assert (keys[..., 16:672].sum(-1) == 64).all()


def test_the_channels_follow_the_query():
    """Each query is large in one channel, and so is one key: another query's channel would not find it."""
    q, k, _ = qkv(700, heads=2, batch=1)
    memory, search = DecodeMemory(), replace(CHANNELS, channels=1 / 16, refresh=(8, 1), sink=16, window=16)
    for channel in range(4):
        k[:, :, 100 + 100 * channel, channel] = 9.0
    for channel in range(4):
        q = torch.zeros_like(q)
        q[..., channel] = 8.0
        layout = search.layout(q, k[:, :, : 690 + channel], None, memory)
        assert seen(layout, 1)[..., 100 + 100 * channel].all() and memory.age == channel


def test_padding_does_not_change_what_channels_find():
    q, k, _ = qkv(700)
    padded = torch.cat([torch.full((2, 2, 64, 16), 50.0), k], dim=2)
    search = replace(CHANNELS, channels=0.25)
    alone = seen(search.layout(q, k, None, DecodeMemory()))
    beside = search.layout(q, padded, between([64, 64], [764, 764], 764), DecodeMemory())
    assert torch.equal(seen(beside)[..., 64:], alone)


def test_found_blocks_serve_until_they_are_judged_again():
    q, k, _ = qkv(900, heads=2)
    memory, found_at = DecodeMemory(), []
    for token, length in enumerate(range(600, 620)):
        if token == 1:
            k[:, :, 304:320] = 6 * q[:, :, :1]
        layout = BOUNDS.layout(q, k[:, :, :length].clone(), None, memory)
        if seen(layout)[..., 304:320].all():
            found_at.append(token)
    assert found_at == list(range(8, 20)), "boxes are made anew every 8 tokens"


def test_extent_is_that_of_the_last_query():
    begin, end = extent(between([0, 30], [700, 90], queries=2), torch.empty(2, 1, 700, 4))
    assert begin.tolist() == [0, 30] and end.tolist() == [700, 90]
    assert [x.tolist() for x in extent(None, torch.empty(2, 1, 77, 4))] == [[0], [77]]


def test_a_search_beats_chance_where_neighbours_are_alike():
    generator = torch.Generator().manual_seed(0)
    k = torch.randn(1, 2, 4096, 16, generator=generator).cumsum(2) / 8
    q = k[:, :, 1000:1001] + torch.randn(1, 2, 1, 16, generator=generator)
    layout = Decode(budget=512, sink=16, window=16).layout(q, k, None, DecodeMemory())
    recall = ((q @ k.transpose(-1, -2) / 4).softmax(-1)[:, :, 0] * seen(layout, 1)).sum(-1).mean()
    assert float(layout.density) == approx(0.14, abs=0.02) and recall > 0.6


@mark.parametrize(
    ("fields", "message"),
    [
        ({"budget": 8}, "greater than or equal to 16"),
        ({"chunks": (256, 48, 16)}, r"multiple of the next, got \(256, 48, 16\)"),
        ({"chunks": (512, 256, 256)}, "multiple of the next"),
        ({"chunks": (1024, 512, 256)}, "one of .* keys, got 256"),
        ({"refresh": (4, 2)}, "an entry for each stage"),
        ({"refresh": (4, 2, 0)}, "greater than or equal to 1"),
    ],
    ids=["budget", "chunks", "equal-chunks", "block", "stages", "refresh"],
)
def test_nonsense_is_refused(fields, message):
    with raises(ValueError, match=message):
        decode_module.Decode(**fields)
