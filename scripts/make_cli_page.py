"""Write docs/cli.md from the ``--help`` of every command; ``--check`` fails when it is stale."""

import argparse
import sys
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "cli.md"
WIDTH = 88  # fixed, so that the page does not depend on the terminal

HEADER = """\
# Command line

<!-- Written by scripts/make_cli_page.py from --help. Do not edit. -->

Exit status: 0 done, 1 the work failed, 2 wrong usage. With `--json` a command prints one JSON
object on stdout and nothing else there. Errors are one or two lines on stderr; `--debug` adds
the traceback.
"""


def walk(command: click.Command, context: click.Context):
    """Yield every visible command with its context, groups before their members."""
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            member = command.get_command(context, name)
            if not member.hidden:
                yield from walk(member, make_context(member, name, context))


def make_context(command: click.Command, name: str, parent=None) -> click.Context:
    return click.Context(
        command, info_name=name, parent=parent, terminal_width=WIDTH, max_content_width=WIDTH
    )


def section(command: click.Command, context: click.Context) -> str:
    path = context.command_path
    help_text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    return f"\n## {path}\n\n```text\n$ {path} --help\n\n{help_text.strip()}\n```\n"


def make_page() -> str:
    from fdforce.cli import main

    return HEADER + "".join(section(*found) for found in walk(main, make_context(main, "fdforce")))


def run() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if stale")
    check = parser.parse_args().check
    sys.path.insert(0, str(ROOT))  # the tree's fdforce, installed or not
    page = make_page()
    if not check:
        PAGE.write_text(page, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page:
        print(f"{PAGE.relative_to(ROOT)} is stale: run python scripts/make_cli_page.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run())
