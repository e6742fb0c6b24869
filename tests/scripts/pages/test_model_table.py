"""The model table has a row for every supported class, and no row that no test stands behind."""

from pathlib import Path

from accel.patches.diffusers.family import FAMILIES
from scripts.pages import model_table


def test_every_family_has_a_row(capsys):
    model_table.main()
    table = capsys.readouterr().out
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == list(FAMILIES)
    assert "| `CogVideoXTransformer3DModel` | text, video |" in table
    assert "| `MochiTransformer3DModel` | video, text | exact, the model drops it | 2 graphs" in table
    assert "`LTXPipeline`, `LTXImageToVideoPipeline`, `LTXConditionPipeline` |" in table


def test_the_readme_has_the_table(capsys):
    model_table.main()
    assert capsys.readouterr().out in (Path(__file__).parents[3] / "docs" / "models.md").read_text()
