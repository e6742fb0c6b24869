"""Tiers are tried in a child that may hang or die, once a machine, and what was found is kept."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch
from pytest import CaptureFixture, MonkeyPatch, fixture, importorskip, mark, raises, skip, warns
from typer import Exit

import tiny
import tiny_language
from accel import accelerate_model
from accel.cli.commands import doctor
from accel.kernels import timings
from accel.kernels.attention.tiers import cannot_run, choose_tier
from accel.kernels.check_results import PASSED, results_file
from accel.machine import tier_check, tier_check_process
from accel.machine.tier_check import check_if_unknown, check_tier
from accel.machine.tier_check_process import NOT_CHECKED, command, outcome
from accel.recipe.recipe import DENSE, Recipe
from fake_hopper import fake_hopper, forget

importorskip("triton")
VIDEO = Recipe.model_validate(
    {"rules": [{"match": "*", "policy": {"method": "radial", "block_size": [16, 16]}}]}
)
CALL = torch.device("cuda"), torch.bfloat16, 128
FAILED = "failed its check on this machine: plain: LSE: error 1.0"
SUPPORT = Path(__file__).parents[1] / "support"


@fixture
def hopper(tmp_path):
    with fake_hopper(tmp_path) as patch:
        yield patch


@fixture
def tried(hopper):
    """What is tried; `tried.says` is the outcome."""

    class Tried(list):
        says = PASSED

    tried = Tried()
    hopper.setattr(tier_check, "check_in_process", lambda *call: tried.append(call) or tried.says)
    return tried


def python(code: str) -> list[str]:
    return [sys.executable, "-c", "import os, signal, subprocess, sys, time\n" + code]


ENDS = {
    "passed": ("print('plain'); print('result: passed')", PASSED),
    "failed": ("print('result: failed its check')", "failed its check"),
    "noise": ("print('result: passed'); print('leaked'); sys.exit(3)", PASSED),
    "hang": (
        "print('compiled\\nlate', flush=True); time.sleep(60)",
        "did not finish its check within 1.5 s, at: late",
    ),
    "slow-compiler": (
        "print('warming', flush=True); time.sleep(60)",
        f"{NOT_CHECKED}: its kernels were not compiled within 2 s",
    ),
    "compiler-without-haste": (
        "time.sleep(2.5); print('compiled', flush=True); print('result: passed')",
        PASSED,
    ),
    "hang-of-a-grandchild": (
        "print('compiled\\nplain', flush=True); subprocess.run([sys.executable, '-c', 'while True: pass'])",
        "did not finish its check within 1.5 s, at: plain",
    ),
    "abort": (
        "print('plain', flush=True); os.abort()",
        "ended the process of its check with code -6, at: plain",
    ),
    "error": (
        "print('plain', flush=True); sys.exit('CUDA error')",
        "ended the process of its check with code 1, at: plain (CUDA error)",
    ),
    "killed": (
        "print('plain', flush=True); os.kill(os.getpid(), signal.SIGKILL)",
        f"{NOT_CHECKED}: its check was killed from outside",
    ),
    "no-device": (
        "sys.exit('all CUDA-capable devices are busy')",
        f"{NOT_CHECKED}: it never began, and ended the process of its check with code 1 "
        "(all CUDA-capable devices are busy)",
    ),
    "interpreter": ("print('result:', os.environ.get('TRITON_INTERPRET'))", "None"),
}


@mark.parametrize(("code", "expected"), ENDS.values(), ids=ENDS.keys())
def test_how_a_child_ends_is_the_result(monkeypatch, code, expected):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    started = time.monotonic()
    run, compiling = 1.5 if "1.5" in expected or "haste" in code else 60, 2 if "2 s" in expected else 60
    assert outcome(python(code), run, compiling) == expected
    assert time.monotonic() - started < 20


def test_a_program_without_an_interpreter_tests_nothing(monkeypatch):
    assert outcome(["/no/such/python"], 9, 9).startswith(f"{NOT_CHECKED}: [Errno 2]")
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert outcome(python("pass"), 9, 9).startswith(f"{NOT_CHECKED}: this program")


def test_an_interrupt_takes_the_child_along(monkeypatch):
    children = []

    class Interrupted(subprocess.Popen):
        def wait(self, timeout=None):
            if children:
                return super().wait(timeout=timeout)
            children.append(self)
            raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with raises(KeyboardInterrupt):
        outcome(python("time.sleep(60)"), 60, 60)
    assert children[0].returncode == -9


def test_the_child_runs_the_check_and_says_how_it_ended(monkeypatch):
    """The true child, on the PyTorch tier and a few of the calls."""
    interpreter, flag, code = command(
        tier_check_process.child, "torch", torch.device("cpu"), torch.float32, 16
    )
    few = (
        "from accel.kernels.check import forms; forms.TILES = (2,); forms.KEY_ROWS = (64,); "
        "from accel.machine.tier_check_process"
    )
    assert (
        outcome([interpreter, flag, code.replace("from accel.machine.tier_check_process", few)], 120, 120)
        == PASSED
    )


def fake_out_of_memory(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB")


SAID = {
    "passed": (lambda *_, **__: None, "result: passed"),
    "failed": (lambda *_, **__: "plain: out", "result: failed its check on this machine: plain: out"),
    "memory": (fake_out_of_memory, f"result: {NOT_CHECKED}: out of memory"),
}


@mark.parametrize(("first_failure", "line"), SAID.values(), ids=SAID.keys())
def test_what_the_child_says(monkeypatch, capsys, first_failure, line):
    monkeypatch.setattr(tier_check_process, "first_failure", first_failure)
    monkeypatch.setattr(tier_check_process.signal, "alarm", lambda seconds: None)
    tier_check_process.child("torch", "cpu", "float32", 16)
    assert capsys.readouterr().out == f"compiled\n{line}\n"


def test_a_tier_is_tried_once_a_machine_and_says_so(tried):
    with warns(UserWarning, match=r"checking the hopper tier for bfloat16 and head dim 128.* in .*\.json"):
        check_if_unknown(*CALL)
    assert choose_tier(*CALL).name == "hopper"
    check_if_unknown(*CALL)
    forget()
    check_if_unknown(*CALL)
    assert tried == [("hopper", *CALL)] and list(json.loads(results_file().read_text()).values()) == [PASSED]


def test_a_tier_that_fails_is_told_of_and_left_out(tried):
    tried.says = FAILED
    with warns(UserWarning, match="the hopper tier failed its check .* the Triton tier runs instead"):
        check_if_unknown(*CALL)
    forget()
    check_if_unknown(*CALL)
    assert len(tried) == 1 and choose_tier(*CALL).name == "triton" and FAILED in choose_tier(*CALL).reason


def test_each_type_and_head_dim_is_tried(tried):
    calls = [CALL, (CALL[0], torch.float16, 128), (CALL[0], torch.bfloat16, 64)]
    for call in calls:
        with warns(UserWarning):
            check_if_unknown(*call)
    forget()
    assert len(tried) == 3 and {choose_tier(*call).name for call in calls} == {"hopper"}


def test_what_says_nothing_of_the_tier_is_not_kept(tried):
    tried.says = f"{NOT_CHECKED}: out of memory"
    with warns(UserWarning):
        check_if_unknown(*CALL)
    check_if_unknown(*CALL)
    assert len(tried) == 1 and not results_file().exists()
    assert f"the hopper tier {tried.says}" in choose_tier(*CALL).reason
    forget()
    tried.says = PASSED
    with warns(UserWarning):
        check_if_unknown(*CALL)
    assert choose_tier(*CALL).name == "hopper"


NOT_TRIED = {
    "switched-off": (CALL, lambda patch: patch.setenv("ACCEL_CHECK", "0")),
    "captured": (CALL, lambda patch: patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)),
    "cpu": ((torch.device("cpu"), torch.bfloat16, 128), lambda patch: None),
    "float32": ((CALL[0], torch.float32, 128), lambda patch: None),
    "ampere": (CALL, lambda patch: patch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))),
}


@mark.parametrize(("call", "change"), NOT_TRIED.values(), ids=NOT_TRIED.keys())
@mark.filterwarnings("error")
def test_where_nothing_is_tried(hopper, tried, call, change):
    change(hopper)
    check_if_unknown(*call)
    assert not tried and choose_tier(*call).name != "hopper"


def test_a_cache_that_cannot_be_written_is_no_error(hopper, tried):
    hopper.setenv("XDG_CACHE_HOME", "/dev/null")
    with warns(UserWarning):
        check_if_unknown(*CALL)
    assert choose_tier(*CALL).name == "hopper" and check_tier("hopper", *CALL, again=False) == PASSED
    assert len(tried) == 1


@mark.parametrize("content", ["", "{broken", "[1]"])
def test_a_file_that_is_not_ours_is_replaced(tried, content):
    results_file().parent.mkdir(parents=True)
    results_file().write_text(content)
    assert check_tier("hopper", *CALL) == PASSED
    assert list(json.loads(results_file().read_text()).values()) == [PASSED]


def test_trying_again_replaces_the_result(tried):
    tried.says = FAILED
    check_tier("hopper", *CALL)
    tried.says = PASSED
    assert check_tier("hopper", *CALL, again=False) == FAILED and check_tier("hopper", *CALL) == PASSED
    forget()
    assert choose_tier(*CALL).name == "hopper"


def test_threads_wait_for_one_check(hopper):
    tried = []

    def slow_check(*call):
        tried.append(call)
        time.sleep(0.3)
        return PASSED

    hopper.setattr(tier_check, "check_in_process", slow_check)
    threads = [threading.Thread(target=check_tier, args=("hopper", *CALL, False)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tried) == 1


def test_processes_wait_for_one_check(hopper, tried, tmp_path):
    code = f"""
import sys, time, torch
sys.path.insert(0, {str(SUPPORT)!r})
from pathlib import Path
from accel.machine import tier_check
from fake_hopper import fake_hopper
def check_in_process(*call):
    Path({str(tmp_path / "begun")!r}).touch()
    time.sleep(2)
    return "passed"
tier_check.check_in_process = check_in_process
with fake_hopper(Path({str(tmp_path)!r})):
    tier_check.check_if_unknown(torch.device("cuda"), torch.bfloat16, 128)
"""
    other = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "begun").exists():
        assert other.poll() is None, other.stderr.read()
        time.sleep(0.05)
    assert not results_file().exists()
    assert check_tier("hopper", *CALL, again=False) == PASSED and not tried
    assert "checking the hopper tier" in other.communicate(timeout=60)[1] and other.returncode == 0


@mark.parametrize("kind", ["video", "text"])
@torch.no_grad()
def test_applying_and_sparse_calls_ask_for_the_check_of_their_shape(monkeypatch, kind):
    asked = []
    monkeypatch.setattr(tier_check, "check_if_unknown", lambda *call: asked.append(call))
    if kind == "video":
        model = accelerate_model(tiny.wan(), VIDEO)
        at_once = set(asked)
        asked.clear()
        model(**tiny.inputs(model))
    else:
        model = accelerate_model(tiny_language.llama(), "llm-permuted", min_tokens=0, dense_queries=0)
        at_once = set(asked)
        asked.clear()
        model(tiny_language.tokens(150), use_cache=False)
    assert set(asked) == at_once == {(torch.device("cpu"), torch.float32, 16, None)}


def test_a_dense_recipe_asks_for_no_check(monkeypatch):
    monkeypatch.setattr(tier_check, "check_if_unknown", None)
    accelerate_model(tiny.wan(), DENSE)


def checks(patch: MonkeyPatch, capsys: CaptureFixture, **options) -> str:
    patch.setattr(doctor, "best_device", lambda: "cuda")
    patch.setattr(doctor, "time_tiers", lambda *call: "it is fake")
    try:
        doctor.doctor(checking=True, **options)
    except Exit as end:
        assert end.exit_code == 1
        return "FAILED " + capsys.readouterr().out
    return capsys.readouterr().out


def test_the_doctor_tries_every_type_and_head_dim(hopper, tried, capsys):
    printed = checks(hopper, capsys)
    assert "NVIDIA H200, bfloat16, head dim 128: passed" in printed and "FAILED" not in printed
    assert "tier     hopper: " in printed and str(results_file()) in printed
    assert "time     NVIDIA H200, bfloat16, head dim 128, 128 x 64: it is fake" in printed
    assert {(call[2], call[3]) for call in tried} >= {
        (dtype, dim) for dtype in (torch.bfloat16, torch.float16) for dim in (64, 128)
    }


def test_the_doctor_fails_with_the_tier(hopper, tried, capsys):
    tried.says = FAILED
    printed = checks(hopper, capsys)
    assert (
        printed.startswith("FAILED") and f"head dim 64: {FAILED}" in printed and "tier     triton" in printed
    )
    data = json.loads(checks(hopper, capsys, as_json=True).removeprefix("FAILED "))
    assert {one["result"] for one in data["checks"]} == {FAILED}


def test_the_doctor_offers_int8_where_it_can_run(hopper, tried, capsys):
    call = timings.Call(*CALL, timings.USUAL_BLOCK)
    printed = checks(hopper, capsys)
    assert "`accel doctor --check --precision int8` finds out" in printed
    assert "int8" not in {tier for tier, *_ in tried}
    printed = checks(hopper, capsys, precision="int8")
    assert "int8" in {tier for tier, *_ in tried} and "0.011, has passed its check here" in printed
    timings.known().update({call.key("hopper"): 2.0, call.key("int8"): 1.5, call.key("triton"): 3.0})
    assert "takes 0.75 of the time of hopper here" in checks(hopper, capsys)
    assert "time     NVIDIA H200, bfloat16, head dim 128, 128 x 64: int8 1.5e+03 ms, hopper" in checks(
        hopper, capsys
    )


def test_the_doctor_has_nothing_to_try_on_a_cpu(capsys):
    if torch.cuda.is_available():
        skip("there is a GPU")
    doctor.doctor(checking=True)
    assert "no kernel of this machine needs a check" in capsys.readouterr().out


@mark.gpu
def test_the_check_on_a_gpu_passes(tmp_path, monkeypatch):
    if not torch.cuda.is_available() or cannot_run("hopper", *CALL):
        skip("needs a Hopper GPU")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert tier_check_process.check_in_process("hopper", *CALL) == PASSED


def test_a_precision_is_tried_and_used_only_where_a_rule_asks_for_it(tried):
    with warns(UserWarning, match="checking the int8 tier"):
        check_if_unknown(*CALL, precision="int8")
    assert [call[0] for call in tried] == ["int8", "hopper"]
    assert choose_tier(*CALL).name == "hopper" and choose_tier(*CALL, precision="int8").name == "int8"


def test_the_precision_of_a_rule_reaches_its_sites(monkeypatch):
    asked = []
    monkeypatch.setattr(tier_check, "check_if_unknown", lambda *call: asked.append(call[3]))
    rule = {"match": "*", "precision": "int8", "policy": {"method": "radial", "block_size": [16, 16]}}
    accelerate_model(tiny.wan(), Recipe.model_validate({"rules": [rule], "schedule": {"dense_steps": 0}}))
    assert asked and set(asked) == {"int8"}
