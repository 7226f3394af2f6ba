"""The page of the commands is what they say of themselves."""

from pathlib import Path

from gkdplan.cli.main import COMMANDS
from gkdplan.cli.reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"


def test_the_page_of_commands_is_their_help():
    assert PAGE.read_text() == reference(), "python -m gkdplan.cli.reference > docs/commands.md"


def test_every_command_is_on_the_page():
    assert [name for name in COMMANDS if f"Usage: gkdplan {name} " not in reference()] == []
