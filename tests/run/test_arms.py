"""Runs that are compared come after a warm-up, which counts for none of them."""

from contextlib import contextmanager

from accel.comparison.runs import mean_seconds
from accel.recipe.files import load_recipe
from accel.recipe.recipe import DENSE
from accel.run import arms as arms_module
from accel.run.arms import Arm, run_arms, warm_up
from accel.run.generate import Seconds
from accel.run.settings import GenerateSettings
from accel.run.watcher import Watcher


def test_arms_run_in_order_after_a_warm_up(monkeypatch):
    ran, inside = [], []

    @contextmanager
    def marked():
        inside.append("in")
        yield
        inside.append("out")

    def generate(pipe, settings, recipe, watcher):
        ran.append((settings.num_inference_steps, recipe.schedule.dense_steps, tuple(inside)))
        return len(ran)

    class Told(Watcher):
        heard = ()

        def begins(self, name, number, of):
            self.heard += ((name, number, of),)

    monkeypatch.setattr(arms_module, "generate", generate)
    fast = Arm(GenerateSettings(prompt="p", num_inference_steps=8), load_recipe("demo"))
    watcher = Told()
    arms = {**warm_up(fast), "dense": Arm(fast.settings, DENSE, marked), "accelerated": fast}
    assert run_arms(None, arms, watcher) == {"dense": 2, "accelerated": 3}
    assert ran == [(2, 0, ()), (8, 0, ("in",)), (8, 0.25, ("in", "out"))]
    assert watcher.heard == (("warm-up", 1, 3), ("dense", 2, 3), ("accelerated", 3, 3))


def test_a_run_of_one_step_is_warmed_up_by_one():
    one = Arm(GenerateSettings(prompt="p", num_inference_steps=1), DENSE)
    assert warm_up(one)["warm-up"].settings.num_inference_steps == 1


def test_seconds_are_averaged_part_by_part():
    assert mean_seconds(Seconds(4, 3, 2), Seconds(6, 4, 2)) == Seconds(5, 3.5, 2)
