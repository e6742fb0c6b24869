"""A setting of a run is declared once: its options in all commands that generate are made from it."""

from pytest import mark

from accel.cli.app import command_of
from accel.run.settings import GenerateSettings, LoadSettings, option_name

SETTINGS = {
    option_name(name): field.description
    for kind in (GenerateSettings, LoadSettings)
    for name, field in kind.model_fields.items()
}


@mark.parametrize("name", ["generate", "compare", "tune", "inspect"])
def test_options_of_settings_say_what_the_settings_say(name):
    helps = {option: one.help for one in command_of(name).params for option in one.opts}
    shared = helps.keys() & SETTINGS.keys() - {"--prompt"}
    assert len(shared) >= 4
    assert {option: helps[option] for option in shared} == {option: SETTINGS[option] for option in shared}
