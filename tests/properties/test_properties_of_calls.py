"""Accelerate, forward, restore, copy, save, in any order: counts add up, and restored is bit-identical."""

import copy
import io
import pickle
import warnings

import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import recipe_strategies as recipes
import tiny
from accel import Recipe, accelerate_model, accelerated, restore_model, summary
from accel.accelerate import patches_of
from accel.recipe.errors import RecipeError

FIXED = settings(
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    max_examples=12,
    stateful_step_count=12,
)
SIZES = [(1, 4, 6), (3, 6, 10), (2, 10, 6)]


class OneModel(RuleBasedStateMachine):
    """A tiny Wan through whatever a user may do with it."""

    @initialize()
    def load(self):
        self.model = tiny.wan(num_layers=2)
        stock = tiny.wan(num_layers=2)
        self.inputs = {size: tiny.inputs(stock, *size) for size in SIZES}
        with torch.no_grad():
            self.expected = {size: stock(**self.inputs[size])[0] for size in SIZES}
        self.calls = None

    @rule(policy=recipes.policies(), schedule=recipes.schedules(), reuse=recipes.reuses())
    def accelerate(self, policy, schedule, reuse):
        recipe = Recipe(schedule=schedule, reuse=reuse, rules=({"match": "*", "policy": policy},))
        before = self.calls
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                accelerate_model(self.model, recipe)
            self.calls = 0
        except RecipeError:
            assert bool(patches_of(self.model)) == (before is not None)

    @rule(size=st.sampled_from(SIZES))
    def forward(self, size):
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = self.model(**self.inputs[size])[0]
        assert out.isfinite().all() and out.shape == self.expected[size].shape
        if self.calls is None:
            assert torch.equal(out, self.expected[size])
        else:
            self.calls += 2

    @rule()
    def restore(self):
        restore_model(self.model)
        self.calls = None

    @rule(size=st.sampled_from(SIZES))
    def inside_a_block(self, size):
        with warnings.catch_warnings(), accelerated(self.model, "draft", block_size=[16, 16], region=[2, 2]):
            warnings.simplefilter("ignore")
            with torch.no_grad():
                assert self.model(**self.inputs[size])[0].isfinite().all()
                assert summary(self.model).calls == 2

    @rule()
    def go_on_with_a_copy(self):
        self.model = copy.deepcopy(self.model)

    @rule()
    def go_on_with_what_was_saved(self):
        file = io.BytesIO()
        torch.save(self.model, file)
        file.seek(0)
        self.model = torch.load(file, weights_only=False, pickle_module=pickle)

    @precondition(lambda self: self.calls is not None)
    @rule(key=st.sampled_from(["decy", "rules.7.policy", "schedule.dense_step"]))
    def mistake(self, key):
        try:
            accelerate_model(self.model, "radial", **{key: 1})
            raise AssertionError(f"{key} was accepted")
        except RecipeError:
            pass

    @invariant()
    def counts_add_up(self):
        if not hasattr(self, "model"):
            return
        assert len(patches_of(self.model)) == (self.calls is not None)
        hooks = len(self.model._forward_pre_hooks) + len(self.model._forward_hooks)
        assert hooks == (0 if self.calls is None else 2)
        if self.calls is not None:
            account = summary(self.model)
            assert account.calls == self.calls
            assert account.density is None if not self.calls else 0 < account.density <= 1
            assert all(site.in_force for site in account.sites)


OneModel.TestCase.settings = FIXED
test_any_order_of_calls = OneModel.TestCase
