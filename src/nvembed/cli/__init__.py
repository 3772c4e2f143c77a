"""The command line. Commands are imported when they are called, so that `nvembed --help` is quick."""

from nvembed.cli.app import main

__all__ = ["main"]
