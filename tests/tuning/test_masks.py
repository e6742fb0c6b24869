"""learn_masks and Stored: masks found on a model's own attention, kept in a file, and nothing else served."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from accel import accelerated, summary
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.policies.parts.mask_file import AXES, MaskFile, load_masks
from accel.policies.stored import Stored
from accel.recipe.errors import RecipeError
from accel.tuning.masks import _Watch, learn_masks
from tiny import inputs, wan


def run(model):
    """Three noise levels: the first two before half of the schedule, the last after it."""
    outputs = []
    for level in (900.0, 700.0, 100.0):
        outputs.append(model(**{**inputs(model), "timestep": torch.tensor([level])})[0])
    return torch.stack(outputs)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    path = tmp_path_factory.mktemp("masks") / "masks.safetensors"
    return path, learn_masks(wan(), run, path, density=0.5, block_size=(16, 16))


def test_every_block_stored_is_dense(tmp_path):
    model = wan()
    learn_masks(model, run, tmp_path / "all.safetensors", density=1, block_size=(16, 16))
    dense = run(model)
    with accelerated(model, Stored(str(tmp_path / "all.safetensors"))):
        torch.testing.assert_close(run(model), dense)
        assert summary(model).density == 1


def test_what_is_stored_is_what_runs_at_the_density_asked_for(learned):
    path, masks = learned
    model = wan()
    dense = run(model)
    with accelerated(model, {"rules": [{"match": "*", "policy": {"method": "stored", "file": str(path)}}]}):
        sparse = run(model)
        density = summary(model).density
    kept = torch.stack(
        [masks.keep(part, layer, torch.device("cpu")) for part in (0, 1) for layer in range(3)]
    )
    assert not torch.equal(sparse, dense)
    assert 0.45 < kept.float().mean() < 0.55 and density == pytest.approx(
        kept.float().mean().item(), abs=0.05
    )
    assert not torch.equal(masks.bits[0], masks.bits[1])


def test_a_file_gives_back_what_was_saved(learned):
    path, masks = learned
    loaded = load_masks(path)
    assert torch.equal(loaded.bits, masks.bits) and torch.equal(loaded.orders, masks.orders)
    assert (loaded.grid, loaded.until, loaded.model) == (
        TokenGrid(5, 6, 10),
        (0.5, 1.0),
        "WanTransformer3DModel",
    )


def test_bits_by_hand():
    keep = torch.zeros(1, 1, 1, 10, 10, dtype=torch.bool)
    keep[..., 0, [0, 3, 9]] = True
    file = MaskFile.of_masks(
        keep,
        orders=torch.zeros(1, 1, dtype=torch.uint8),
        until=(1.0,),
        grid=TokenGrid(1, 10, 16),
        block_size=(16, 16),
        model="Toy",
    )
    assert file.bits[0, 0, 0, 0].tolist() == [1 + 8, 2]
    assert torch.equal(file.keep(0, 0, torch.device("cpu")), keep[0, 0])


def test_each_head_gets_the_order_in_which_what_it_looks_at_lies_together():
    grid = TokenGrid(8, 4, 4)
    frame, place = torch.arange(128) // 16, torch.arange(128) % 16
    codes = torch.zeros(1, 2, 128, 24)
    codes[0, 0, torch.arange(128), frame] = 30
    codes[0, 1, torch.arange(128), 8 + place] = 30
    watch = _Watch((16, 16), (1.0,), 1 / 8)
    watch.layout(codes, codes, grid, Context(grid=grid))
    frames, places = (AXES[number] for number in watch.best_orders()[0].tolist())
    assert frames[0] == "f" and places[2] == "f"


def test_a_damaged_file_is_refused_where_the_recipe_names_it(learned, tmp_path):
    path, _ = learned
    from safetensors import safe_open

    tensors = load_file(path)
    tensors["bits"][0, 0, 0, 0, 0] ^= 1
    with safe_open(path, "pt") as file:
        save_file(tensors, tmp_path / "damaged.safetensors", file.metadata())
    save_file(tensors, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no")
    for name, message in {
        "damaged": "not the saved ones",
        "other": "not a file of masks",
        "text": "not a file of masks",
        "missing": "cannot be read: No such file",
    }.items():
        policy = {"method": "stored", "file": str(tmp_path / f"{name}.safetensors")}
        with (
            pytest.raises(RecipeError, match=message),
            accelerated(wan(), {"rules": [{"match": "*", "policy": policy}]}),
        ):
            pass


def test_masks_of_another_size_or_model_serve_no_call(learned):
    path, _ = learned
    policy = Stored(str(path))
    with (
        pytest.raises(RecipeError, match="masks of 3 layers, this model has 2"),
        accelerated(wan(num_layers=2), policy),
    ):
        pass
    model = wan()
    with accelerated(model, policy):
        model(**inputs(model, 3))
        assert "the method is for 5x6x10 tokens" in str(summary(model))
    q = torch.zeros(1, 2, 300, 4)
    with pytest.raises(ValueError, match="masks of a grid of 5x6x10 tokens, this call has 3x10x10"):
        policy.layout(q, q, TokenGrid(3, 10, 10), Context(n_layers=3))
    with pytest.raises(ValueError, match="masks of 3 layers, this model has 4"):
        policy.layout(q, q, TokenGrid(5, 6, 10), Context(n_layers=4))
    q = torch.zeros(1, 7, 300, 4)
    with pytest.raises(ValueError, match="this call has 7"):
        policy.layout(q, q, TokenGrid(5, 6, 10), Context(n_layers=3))


def test_videos_of_two_sizes_are_refused(tmp_path):
    model = wan()

    def two(model):
        for frames in (5, 3):
            model(**inputs(model, frames))

    with pytest.raises(ValueError, match="all videos must be of one size, and all layers, got grids of"):
        learn_masks(model, two, tmp_path / "x.safetensors", block_size=(16, 16))
    assert not (tmp_path / "x.safetensors").exists()
