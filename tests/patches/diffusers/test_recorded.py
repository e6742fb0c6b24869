"""What is recorded once for many inputs, or runs without values, is the model's own attention, counted."""

import subprocess
import sys
import warnings

import torch
from pytest import fixture, mark
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import tiny
from accel import accelerate_model, summary
from tiny_families import CASES
from tiny_wan_pipeline import recipe

NAMES = ("hidden_states", "timestep", "encoder_hidden_states")


@fixture
def model():
    return accelerate_model(tiny.wan(), recipe())


def arguments(model, batch=1):
    given = tiny.inputs(model, batch=batch)
    return tuple(given[name] for name in NAMES)


class OnlyTensors(torch.nn.Module):
    """A model that returns a tensor and not a tuple, as `torch.jit.trace` wants it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *given):
        return self.model(*given, return_dict=False)[0]


def dense(*given):
    """What the stock model makes of them."""
    return tiny.wan()(*given, return_dict=False)[0]


@mark.parametrize("strict", [False, True], ids=["non-strict", "strict"])
@torch.no_grad()
def test_an_exported_program_is_the_stock_one(model, strict, tmp_path):
    given = arguments(model)
    program = torch.export.export(model, given, {"return_dict": False}, strict=strict)
    stock = torch.export.export(tiny.wan(), given, {"return_dict": False}, strict=strict)
    targets = [[str(node.target) for node in made.graph.nodes] for made in (program, stock)]
    assert targets[0] == targets[1]
    assert torch.equal(program.module()(*given, return_dict=False)[0], dense(*given))
    if not strict:
        assert summary(model).dense_reasons == {"exported": 3}
    assert model(*given, return_dict=False)[0].isfinite().all() and summary(model).sparse_density < 1


@torch.no_grad()
def test_an_exported_program_needs_nothing_of_ours_to_run(model, tmp_path):
    given = arguments(model)
    torch.export.save(torch.export.export(model, given, {"return_dict": False}), tmp_path / "model.pt2")
    torch.save((given, dense(*given)), tmp_path / "given.pt")
    code = (
        "import sys, torch; given, expected = torch.load('given.pt')\n"
        "got = torch.export.load('model.pt2').module()(*given, return_dict=False)[0]\n"
        "assert torch.equal(got, expected) and not any(name.startswith('accel') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, check=True, env={"OMP_NUM_THREADS": "1"})


@mark.parametrize("family", ["hunyuan-video", "ltx", "flux", "mochi", "sd3"])
@torch.no_grad()
def test_families_whose_attention_is_caught_export_as_stock(family):
    case, programs = CASES[family], []
    for accelerated in (False, True):
        model = case.model()
        if accelerated:
            accelerate_model(model, recipe())
        programs.append(
            torch.export.export(model, (), case.inputs(1, 1 if case.image else 3, 4, 6), strict=False)
        )
    stock, ours = ([str(node.target) for node in program.graph.nodes] for program in programs)
    assert ours == stock


@torch.no_grad()
def test_a_map_over_samples_is_the_stock_models(model):
    given = arguments(model, batch=2)

    def mapped(module):
        def one(*sample):
            return module(*(tensor[None] for tensor in sample), return_dict=False)[0][0]

        return torch.vmap(one)(*given)

    assert torch.equal(mapped(model), mapped(tiny.wan()))
    assert summary(model).dense_reasons == {"transformed by torch.func or torch.vmap": 3}


@torch.no_grad()
def test_a_traced_model_serves_other_inputs(model):
    given, other = arguments(model), [tensor * 0.5 for tensor in arguments(model)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(OnlyTensors(model), given, check_trace=False)
    assert torch.equal(traced(*other), dense(*other))
    assert summary(model).dense_reasons == {"traced by torch.jit": 3}


@torch.no_grad()
def test_tensors_without_values_pass_through(model):
    given = arguments(model)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        out = model(*(mode.from_tensor(tensor) for tensor in given), return_dict=False)[0]
    assert out.shape == given[0].shape
    graph = make_fx(OnlyTensors(model))(*given)
    assert "sparse_accel" not in graph.code
    assert summary(model).dense_reasons == {"run on tensors without values": 6}
