"""A pipeline's models from their configurations alone: every supported class, and odd ones."""

import inspect
import json

import diffusers
from pytest import fixture, mark, raises

from accel.cli.commands.inspect import usual_size
from accel.load.empty_forward import LATENTS, empty_grid, is_image_model
from accel.load.empty_pipeline import empty_pipeline, latent_shape
from accel.load.errors import LoadError
from accel.patches.diffusers.family import FAMILIES
from accel.patches.models import find_sites
from accel.run.sizes import FRAMES, SIDES

DEPTHS = ("num_layers", "num_single_layers", "num_visual_blocks", "num_text_blocks", "num_decoder_blocks")


@fixture
def folder(tmp_path):
    """Write the configurations of a pipeline around one class, its own defaults, few layers deep."""

    def write(class_name: str, vae: dict | None = None, **changes: object) -> str:
        given = inspect.signature(getattr(diffusers, class_name).__init__).parameters.values()
        config = {each.name: each.default for each in given if each.default is not inspect.Parameter.empty}
        config |= (
            {name: 2 for name in DEPTHS if name in config}
            | {"vace_layers": [0]}
            | changes
            | {"_class_name": class_name}
        )
        parts = {"transformer": config, "vae": {"_class_name": "AutoencoderKLWan", **(vae or {})}}
        for name, data in parts.items():
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "config.json").write_text(json.dumps(data, default=str))
        index = {"_class_name": "X", "transformer": ["diffusers", class_name], "vae": ["diffusers", "X"]}
        (tmp_path / "model_index.json").write_text(json.dumps(index))
        return str(tmp_path)

    return write


@mark.parametrize("table", [LATENTS, SIDES, FRAMES])
def test_tables_by_family_name_families_and_classes_that_exist(table):
    modules = {module.rpartition(".")[2] for module in FAMILIES.values()}
    assert table.keys() <= modules | FAMILIES.keys()


@mark.parametrize("class_name", FAMILIES)
def test_every_supported_class_can_be_inspected_from_its_configuration(folder, class_name):
    pipeline = empty_pipeline(folder(class_name))
    (model,) = pipeline.models.values()
    assert find_sites(model, "transformer")
    size = usual_size("elsewhere", pipeline)
    grid = empty_grid(model, latent_shape(pipeline, *size))
    assert grid.frames == 1 if is_image_model(class_name) else grid.frames > 1
    # What a pipeline makes of that many pixels: 16 x 16 or 32 x 32 of them a token, 8 x 8 in a UNet.
    sides = (8,) if "UNet" in class_name else (16, 32)
    assert size[1] / grid.height == size[2] / grid.width and size[1] / grid.height in sides


def test_the_scale_is_the_one_that_the_vae_states(folder):
    pipeline = empty_pipeline(folder("WanTransformer3DModel", {"scale_factor_spatial": 16}))
    assert latent_shape(pipeline, 81, 480, 832) == (21, 30, 52)


@mark.parametrize(
    "text", ["", "[]", "{", "[" * 100_000, '{"transformer": 3}', '{"transformer": ["diffusers"]}']
)
def test_an_index_that_is_odd_is_a_load_error(tmp_path, text):
    (tmp_path / "model_index.json").write_text(text)
    with raises(LoadError):
        empty_pipeline(str(tmp_path))


@mark.parametrize("changes", [{"num_layers": "many"}, {"attention_head_dim": -3}, {"in_channels": "x"}])
def test_a_configuration_that_makes_no_model_is_a_load_error(folder, changes):
    with raises(LoadError, match=r"config\.json"):
        empty_pipeline(folder("WanTransformer3DModel", **changes))
