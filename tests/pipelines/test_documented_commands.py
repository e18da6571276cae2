"""Every command and option that the documentation shows exists."""

import re
from pathlib import Path

import typer

from pipelines.cli.main import app

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
COMMAND = re.compile(r"elastic-ctr ([a-z][a-z-]+)((?: [^`#\n]*)?)")


def shown():
    """Yield page, command and its long options, of every command line in the documentation."""
    for page in PAGES:
        for name, rest in COMMAND.findall(page.read_text(encoding="utf-8")):
            yield page.name, name, re.findall(r"(?<!\S)(--[a-z-]+)", rest)


def test_documented_commands_and_options_exist():
    commands = typer.main.get_command(app).commands
    known = {
        name: {option for parameter in command.params for option in parameter.opts} | {"--help"}
        for name, command in commands.items()
    }
    lines = [line for line in shown() if line[1] != "elastic-ctr"]
    assert len(lines) > 20
    assert [(page, name) for page, name, _ in lines if name not in known] == []
    wrong = [(p, n, o) for p, n, options in lines for o in options if o not in known[n]]
    assert wrong == []
