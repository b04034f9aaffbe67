"""The command line, ``ncogym COMMAND``; `ncogym.cli.app` runs it."""

from ncogym.cli.app import COMMANDS, main

__all__ = ["COMMANDS", "main"]
