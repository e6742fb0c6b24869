"""A class is recognised through subclasses and FSDP2's renaming, wherever a class is asked for."""

import torch
import torch.distributed as dist
from diffusers import WanPipeline, WanTransformer3DModel
from pytest import fixture, mark, raises
from torch.distributed.fsdp import fully_shard

import tiny
from accel import accelerate_model, restore_model, summary
from accel.accelerate import plan_for
from accel.patches.class_names import known_name
from accel.patches.diffusers.reading import argument_names
from tiny_wan_pipeline import latents, recipe, wan_pipeline


class MyWan(WanTransformer3DModel):
    """A user's subclass that changes nothing."""


class PassingOn(WanTransformer3DModel):
    """A user's subclass that hands on what it is given."""

    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)


class MyPipeline(WanPipeline):
    """A user's pipeline."""

    def __call__(self, *args, **kwargs):
        return super().__call__(*args, **kwargs)


def as_class(cls):
    model = tiny.wan()
    model.__class__ = cls
    return model


@fixture
def sharded():
    """A transformer whose blocks and root are sharded by FSDP2, over one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    model = tiny.wan()
    for block in model.blocks:
        fully_shard(block)
    yield fully_shard(model)
    dist.destroy_process_group()


def test_the_nearest_known_parent_counts():
    assert known_name(as_class(MyWan), ("WanTransformer3DModel", "ModelMixin")) == "WanTransformer3DModel"
    assert known_name(as_class(MyWan), ("MyWan", "WanTransformer3DModel")) == "MyWan"
    assert known_name(object(), ("WanTransformer3DModel",)) is None


def test_arguments_are_named_as_the_class_that_takes_them_does():
    assert argument_names(PassingOn) == argument_names(WanTransformer3DModel)
    assert argument_names(WanTransformer3DModel)[:3] == ["hidden_states", "timestep", "encoder_hidden_states"]


def by_position(model):
    given = tiny.inputs(model)
    with torch.no_grad():
        return model(
            given["hidden_states"], given["timestep"], given["encoder_hidden_states"], return_dict=False
        )[0]


@mark.parametrize("cls", [MyWan, PassingOn])
def test_a_subclass_is_accelerated_as_its_parent(cls):
    plain, model = tiny.wan(), as_class(cls)
    assert plan_for(model).recipe == plan_for(plain).recipe
    expected = by_position(accelerate_model(plain, recipe()))
    assert torch.equal(by_position(accelerate_model(model, recipe())), expected)
    assert not summary(model).dense_reasons


def test_a_sharded_model_is_accelerated_as_it_was(sharded):
    plain = tiny.wan()
    assert type(sharded).__name__ == "FSDPWanTransformer3DModel"
    assert plan_for(sharded).recipe == plan_for(plain).recipe
    expected = by_position(accelerate_model(plain, recipe()))
    assert torch.equal(by_position(accelerate_model(sharded, recipe())), expected)
    restore_model(sharded)
    assert torch.equal(by_position(sharded), by_position(tiny.wan()))


def test_a_subclassed_pipeline_counts_its_steps():
    pipe = wan_pipeline()
    counted = recipe(schedule={"dense_steps": 0.3})
    expected = latents(accelerate_model(pipe, counted))
    mine = MyPipeline(None, None, None, pipe.scheduler, tiny.wan())
    mine.set_progress_bar_config(disable=True)
    assert torch.equal(latents(accelerate_model(mine, counted)), expected)
    assert summary(mine).dense_reasons == summary(pipe).dense_reasons
    assert set(summary(mine).dense_reasons) == {"first steps"}


def test_a_declined_class_is_declined_under_another_name():
    from diffusers import DiTTransformer2DModel

    class Mine(DiTTransformer2DModel):
        pass

    model = Mine(num_attention_heads=2, attention_head_dim=8, num_layers=1, sample_size=4, patch_size=2)
    with raises(TypeError, match="Mine is left as it is: its images have the one size"):
        accelerate_model(model)
