"""Many requests on one model: in threads, in turn, on caches that are copied and changed: each as alone."""

import copy
import threading

import torch
from pytest import mark
from transformers import DynamicCache, StaticCache

import tiny_language as tiny
from accel import accelerate_model, summary
from accel.accelerate import patches_of
from accel.recipe.recipe import Recipe
from accel.sites.sequence import pays_off

BOUNDS = {"kind": "bounds", "budget": 32, "sink": 16, "window": 16, "refresh": [8, 4]}
STAGES = {"kind": "stages", "budget": 32, "sink": 16, "window": 16}
STAGES |= {"chunks": [64, 32, 16], "keep": [128, 64], "refresh": [8, 4, 2]}
# Tokens and texts of each request; the second is one token longer than the first.
REQUESTS = [(150, 1), (151, 1), (150, 2), (170, 3)]
DECODED = 12

pytestmark = mark.usefixtures("inference")


def decoding(decode, **changes):
    policy = {"method": "permuted", "segment": 64, "block_size": [16, 16], "score": {"kind": "pooled"}}
    policy |= {"select": {"kind": "top_p", "mass": 0.9}, "decode": decode}
    schedule = {"min_tokens": 0, "sparse_decode": True}
    recipe = Recipe.model_validate({"schedule": schedule, "rules": [{"match": "*", "policy": policy}]})
    return accelerate_model(tiny.llama(**changes), recipe)


class Request:
    """A text, read in one forward and gone on with token by token, each token known beforehand."""

    def __init__(self, model, length, batch, seed, cache="dynamic"):
        self.model, self.length = model, length
        self.ids = tiny.tokens(length + DECODED, batch, seed)
        room = {"max_cache_len": length + DECODED + 1}
        kinds = {"dynamic": lambda: DynamicCache(config=model.config)}
        kinds["static"] = lambda: StaticCache(config=model.config, **room)
        self.cache = kinds[cache]()
        self.logits = []

    def step(self):
        done = self.length + len(self.logits) - 1
        ids = self.ids[:, done : done + 1] if self.logits else self.ids[:, : self.length]
        with torch.no_grad():
            self.logits.append(self.model(ids, past_key_values=self.cache).logits[:, -1])

    def run(self):
        for _ in range(1 + DECODED):
            self.step()
        return self.logits


def requests(model, cache="dynamic"):
    return [Request(model, *request, seed, cache) for seed, request in enumerate(REQUESTS)]


def are_equal(some, others):
    return [all(map(torch.equal, one, other)) for one, other in zip(some, others, strict=True)]


@mark.parametrize("decode", [BOUNDS, STAGES], ids=lambda decode: decode["kind"])
@mark.parametrize("cache", ["dynamic", "static"])
def test_threads_and_turns_are_as_alone(decode, cache):
    model = decoding(decode)
    alone = [request.run() for request in requests(model, cache)]
    assert summary(model).dense_reasons == {}

    in_turn = requests(model, cache)
    for _ in range(1 + DECODED):
        for request in in_turn:
            request.step()
    assert are_equal([request.logits for request in in_turn], alone) == [True] * len(alone)

    together = requests(model, cache)
    threads = [threading.Thread(target=request.run) for request in together]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert are_equal([request.logits for request in together], alone) == [True] * len(alone)
    assert summary(model).dense_reasons == {}, "no request has spoilt the layer for the others"


def reorder(cache):
    cache.reorder_cache(torch.tensor([1, 0]))


def crop(cache):
    cache.crop(-5)


def repeat(cache):
    cache.batch_repeat_interleave(2)


def select(cache):
    cache.batch_select_indices(torch.tensor([1]))


def write(cache):
    for layer in cache.layers:
        layer.keys[:, :, 20:120].neg_()


def nothing(cache):
    pass


@mark.parametrize(
    "change", [reorder, crop, repeat, select, write, nothing], ids=lambda change: change.__name__
)
@mark.parametrize("decode", [BOUNDS, STAGES], ids=lambda decode: decode["kind"])
def test_a_changed_cache_is_searched_anew(decode, change):
    """A copied cache has no memory: what follows it is what would be found without one."""
    model = decoding(decode)
    request = Request(model, 150, 2, 1)
    for _ in range(4):
        request.step()
    ages = [
        memory.decode.age
        for memory in patches_of(model)[0].installed[0].attention.memories._of_caches.values()
    ]
    assert ages == [2]
    change(request.cache)
    token = tiny.tokens(1, len(request.cache.layers[0].keys), 3)
    expected = model(token, past_key_values=copy.deepcopy(request.cache)).logits
    got = model(token, past_key_values=request.cache).logits
    if change is not nothing:
        assert torch.equal(got, expected)
    assert request.logits[0].isfinite().all()


def test_what_is_remembered_goes_with_its_cache():
    model = decoding(BOUNDS)
    for request in requests(model):
        request.run()
    del request
    memories = patches_of(model)[0].installed[0].attention.memories
    assert not list(memories._of_caches) and not memories._of_storages
    assert copy.deepcopy(memories)._of_caches is not memories._of_caches


def test_beam_search_is_that_of_a_model_that_searches_at_every_token():
    ids = tiny.tokens(150, 1)
    settings = {"max_new_tokens": 10, "num_beams": 3, "do_sample": False}
    always = decoding({**BOUNDS, "refresh": [1, 1], "window": 16})
    texts = [model.generate(ids, **settings) for model in (decoding(BOUNDS), decoding(BOUNDS), always)]
    assert torch.equal(texts[0], texts[1]) and texts[2].shape == texts[0].shape


def test_one_requests_density_says_nothing_of_the_next(monkeypatch):
    """Where the machine decides, a prompt that was too dense must not keep another one dense."""
    densities = []
    monkeypatch.setattr(pays_off, "break_even", lambda q, k, policy: densities.pop())
    model = accelerate_model(tiny.llama(), "llm-permuted", min_tokens=None, dense_layers=0)
    densities += [2.0, 2.0, 1e-9, 1e-9]
    for expected in (0, 2):
        model(tiny.tokens(1100))
        assert sum(site.sparse_calls for site in summary(model).sites) == expected
