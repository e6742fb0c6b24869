"""Offloading: every hook that moves weights around a forward runs, and the result is the dense model's."""

import torch
from accelerate import cpu_offload, cpu_offload_with_hook, disk_offload
from accelerate.hooks import AlignDevicesHook, remove_hook_from_submodules
from pytest import mark

import tiny
from accel import accelerate_model, restore_model, summary
from tiny_wan_pipeline import keep_every_block, latents, recipe, wan_pipeline

CPU = torch.device("cpu")


def sequential(model, folder):
    """What `enable_sequential_cpu_offload` does: weights on meta, brought in for each module's forward."""
    cpu_offload(model, CPU, offload_buffers=True)
    assert next(model.parameters()).is_meta


def disk(model, folder):
    disk_offload(model, folder, CPU, offload_buffers=True)
    assert next(model.parameters()).is_meta


def whole_model(model, folder):
    """What `enable_model_cpu_offload` does."""
    _, hook = cpu_offload_with_hook(model, CPU)
    assert hook is not None and hasattr(model, "_hf_hook")


def group_of_leaves(model, folder):
    model.enable_group_offload(CPU, CPU, offload_type="leaf_level")


def group_of_blocks(model, folder):
    model.enable_group_offload(CPU, CPU, offload_type="block_level", num_blocks_per_group=2)


def group_on_disk(model, folder):
    model.enable_group_offload(
        CPU, CPU, offload_type="block_level", num_blocks_per_group=1, offload_to_disk_path=str(folder)
    )


OFFLOADS = [sequential, disk, whole_model, group_of_leaves, group_of_blocks, group_on_disk]


@torch.no_grad()
def output(model):
    return model(**tiny.inputs(model))[0]


@mark.parametrize("offload", OFFLOADS, ids=lambda offload: offload.__name__)
@mark.parametrize("first", ["offload", "accelerate"])
def test_offloading_before_or_after(offload, first, tmp_path):
    plain, model = tiny.wan(), tiny.wan()
    offload(plain, tmp_path / "plain")
    expected = output(plain)
    if first == "offload":
        offload(model, tmp_path)
    keep_every_block(model)
    if first == "accelerate":
        offload(model, tmp_path)
    for _ in range(2):
        torch.testing.assert_close(output(model), expected, atol=2e-5, rtol=2e-5)
    assert summary(model).sparse_density == 1 and summary(model).calls == 6
    accelerate_model(model, recipe(reuse={"steps": 2}))
    assert not torch.equal(output(model), expected) and summary(model).sparse_density < 1
    restore_model(model)
    # Weights that are read from disk anew lie at other addresses, and products of them round differently.
    exact = offload is not group_on_disk
    torch.testing.assert_close(output(model), expected, atol=0 if exact else 2e-6, rtol=0)


def test_offloading_that_ends_while_accelerated():
    model = tiny.wan()
    expected = output(model)
    keep_every_block(model)
    sequential(model, None)
    output(model)
    remove_hook_from_submodules(model)
    torch.testing.assert_close(output(model), expected, atol=2e-5, rtol=2e-5)
    assert not any(isinstance(getattr(m, "_hf_hook", None), AlignDevicesHook) for m in model.modules())


@mark.parametrize("offload", [sequential, group_of_leaves], ids=lambda offload: offload.__name__)
def test_a_pipeline_with_two_offloaded_experts(offload, tmp_path):
    expected = latents(wan_pipeline(experts=2))
    pipe = keep_every_block(wan_pipeline(experts=2))
    for expert in (pipe.transformer, pipe.transformer_2):
        offload(expert, tmp_path)
    torch.testing.assert_close(latents(pipe), expected, atol=1e-4, rtol=1e-4)
    assert summary(pipe).sparse_density == 1 and not summary(pipe).never_called
