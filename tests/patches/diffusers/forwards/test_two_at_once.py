"""Every family: one forward begins and waits in the middle of another of other size; both run as alone."""

import threading

import torch
from pytest import mark

from accel import accelerate_model, summary
from accel.patches.models import find_sites
from tiny_families import CASES
from tiny_wan_pipeline import recipe

PATIENCE = 30.0


def tensors(output):
    return [output] if isinstance(output, torch.Tensor) else list(output)


@mark.parametrize("name", CASES)
def test_two_forwards_at_once(name):
    case = CASES[name]
    model = accelerate_model(case.model(), recipe())
    frames = 1 if case.image else 3
    given = {"first": case.inputs(1, frames, 6, 8), "second": case.inputs(1, frames, 8, 6)}

    def run(who):
        with torch.no_grad():
            return tensors(model(**dict(given[who]), return_dict=False)[0])

    alone = {who: run(who) for who in given}
    once = summary(model).dense_reasons
    begun = {who: threading.Event() for who in given}
    first_done, got = threading.Event(), {}

    def take_turns(*_):
        who = threading.current_thread().name
        if who in begun and not begun[who].is_set():
            begun[who].set()
            assert (begun["second"] if who == "first" else first_done).wait(PATIENCE)

    def work(who):
        assert who == "first" or begun["first"].wait(PATIENCE)
        got[who] = run(who)
        first_done.set()

    find_sites(model)[1].module.register_forward_pre_hook(take_turns)
    threads = [threading.Thread(target=work, args=(who,), name=who) for who in given]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for who in given:
        assert all(map(torch.equal, got[who], alone[who]))
    assert summary(model).dense_reasons == {reason: 2 * count for reason, count in once.items()}
