"""The paired harness: work that counts everything, and tables whose statistics are right."""

import math

from pytest import approx, mark

from accel.recipe.files import build_recipe
from scripts.quality.paired.run import ALL, Row, numbers, read, settings_in, settings_named, write
from scripts.quality.paired.tables import t_statistic, tables


@mark.parametrize("name", ALL)
def test_every_setting_is_a_recipe(name):
    assert build_recipe(ALL[name], name).rules


def test_ranges_of_prompts():
    assert numbers("0-3,9") == [0, 1, 2, 3, 9]
    assert numbers("16") == [16]


def test_the_forced_error_is_a_root_mean_square():
    assert Row("today", 8, 1, 0.5, forced=(0.3, 0.4)).forced_rms == approx(math.sqrt(0.125))
    assert Row("today", 8, 1, 0.5, latent_error=0.1).forced_rms is None


def test_t_is_the_mean_over_its_standard_error():
    assert t_statistic([1.0, 2.0, 3.0]) == approx(2 / (1 / math.sqrt(3)))
    assert t_statistic([0.0, 0.0]) == 0 and t_statistic([-1.0, -1.0]) == -math.inf


def test_rows_survive_the_file_and_become_tables(tmp_path):
    rows = [Row("today", 8, prompt, 0.55, latent_error=0.2 + prompt / 100) for prompt in (16, 17, 18)]
    rows += [Row("residual", 8, prompt, 0.5, latent_error=0.1 + prompt / 200) for prompt in (16, 17)]
    rows += [Row("today", 24, 16, 0.55, forced=(0.1, 0.2))]
    write(tmp_path / "rows.json", rows)
    assert read(tmp_path / "rows.json") == rows
    text = tables(rows)
    assert "| residual | 0.500 | 0.180 | 0.185 | - | **0.182** | -50 % |" in text
    assert "Forced error" in text and ", 24 steps" in text


def test_a_recipe_file_is_a_setting_that_stays_in_the_file(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("rules: [{match: '*', policy: {method: radial}}]\n")
    settings = settings_named(["today", str(recipe)])
    assert list(settings) == ["today", "mine"]
    rows = tmp_path / "rows.json"
    write(rows, [Row("mine", 8, 16, 0.5)], settings)
    write(rows, [*read(rows), Row("today", 8, 16, 0.55)])
    assert build_recipe(settings_in(rows)["mine"], "mine").rules[0].policy.method == "radial"
    assert set(settings_in(rows)) == {"mine", "today"}
