import json

from bench_planning import main


def test_every_stage_is_timed_and_held_against_the_bar(tmp_path):
    out = tmp_path / "planning.json"
    main(out, shape="1,2,300,16", repeats=1)
    found = json.loads(out.read_text())
    assert all(stage["ms"] > 0 for stage in found["stages"])
    assert len(found["under_the_bar"]) == 3 and found["dense_ms"] > 0
