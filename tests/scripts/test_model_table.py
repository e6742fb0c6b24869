"""The model table has a row for every supported class, and no row that no test stands behind."""

import model_table
from accel.patches.family import FAMILIES


def test_every_family_has_a_row(capsys):
    model_table.main()
    table = capsys.readouterr().out
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == list(FAMILIES)
    assert "| `CogVideoXTransformer3DModel` | text, video |" in table
    assert "| `MochiTransformer3DModel` | video, text | exact, the model drops it | 2 graphs" in table
