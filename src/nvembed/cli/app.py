"""The command group, and what becomes of an exception: exit code 2 for the user's mistakes, 1 for ours."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

import click

from nvembed import __version__
from nvembed.core.errors import UserError

# name -> (module, attribute, line shown in the help). The line is repeated here so that help imports no command.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "run": ("nvembed.cli.commands_run", "run", "Run the whole pipeline on this machine."),
    "submit": ("nvembed.cli.commands_cluster", "submit", "Run the same pipeline on a cluster."),
    "status": ("nvembed.cli.commands_runs", "status", "Runs on the cluster, and how their tasks stand."),
    "logs": ("nvembed.cli.commands_runs", "logs", "What a run's tasks printed on the cluster."),
    "cancel": ("nvembed.cli.commands_runs", "cancel", "End a run on the cluster."),
    "compile": ("nvembed.cli.commands_cluster", "compile_", "Compile the pipeline to YAML."),
    "recipe": ("nvembed.cli.commands_recipe", "recipe", "List, show and check recipes."),
    "data": ("nvembed.cli.commands_data", "data", "Try the sources of a recipe's mix."),
    "embed": ("nvembed.cli.commands_embed", "embed", "Turn a file of texts into vectors."),
    "synthesize": ("nvembed.cli.commands_synthesis", "synthesize", "One stage: write queries for documents."),
    "prepare": ("nvembed.cli.commands_stages", "prepare", "One stage: read, split and report the data."),
    "mine": ("nvembed.cli.commands_stages", "mine", "One stage: mine hard negatives."),
    "train": ("nvembed.cli.commands_stages", "train", "One stage: train stage 1 or stage 2."),
    "evaluate": ("nvembed.cli.commands_stages", "evaluate", "One stage: measure one model."),
    "ablate": ("nvembed.cli.commands_ablate", "ablate", "Compare variants of a recipe at one budget."),
    "registry": ("nvembed.cli.commands_tracking", "registry", "Registered models."),
    "compare": ("nvembed.cli.commands_tracking", "compare", "Two runs' headline numbers side by side."),
    "track": ("nvembed.cli.commands_tracking", "track", "Send MLflow what it could not take."),
    "clean": ("nvembed.cli.commands_clean", "clean", "Remove what the newest runs do not need."),
    "doctor": ("nvembed.cli.commands_doctor", "doctor", "Check versions, GPUs, disk, tracking and stores."),
    "ui": ("nvembed.cli.commands_tracking", "ui", "Open MLflow on the local store."),
    "reap": ("nvembed.cli.commands_nodes", "reap", "Remove TrainJobs whose pipeline run has ended."),
}
HIDDEN = {"train-node": ("nvembed.cli.commands_nodes", "train_node")}  # what pods of a TrainJob run
INTERRUPTED = 130


class Failure(Exception):
    """Something went wrong that is not the user's input: exit code 1. `log` names where the details are."""

    def __init__(self, message: str, log: Path | None = None) -> None:
        super().__init__(message)
        self.log = log


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in HIDDEN:
            module, attribute = HIDDEN[cmd_name]
        elif cmd_name in COMMANDS:
            module, attribute, _ = COMMANDS[cmd_name]
        else:
            return None
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nvembed")
@click.option("--debug", is_flag=True, envvar="NVEMBED_DEBUG", help="Show tracebacks.")
@click.option("-v", "--verbose", is_flag=True, help="Show the library's own log on standard error.")
def cli(debug: bool, verbose: bool) -> None:
    """Train text embedding models the NV-Embed way, on this machine or on a Kubeflow cluster.

    Exit codes: 0 done; 2 something you gave is wrong (one line says what and how to mend it); 1 anything else.
    """
    if debug:
        os.environ["NVEMBED_DEBUG"] = "1"
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (see the module's docstring)."""
    try:
        code = cli.main(args=None if arguments is None else list(arguments), prog_name="nvembed", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except UserError as error:
        _say(f"error: {error}")
        return _traceback_if_asked(2)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort) as error:
        _say(str(error) or str(error.__cause__ or "") or "interrupted")  # click turns the one into the other
        return INTERRUPTED
    except Failure as error:
        _say(f"error: {error}" + (f" (log: {error.log})" if error.log else ""))
        return _traceback_if_asked(1)
    except Exception as error:  # noqa: BLE001 - the last stop: nobody should have to read a traceback to use this
        _say(f"error: {type(error).__name__}: {' '.join(str(error).split())} (log: {_write_log()})")
        return _traceback_if_asked(1)


def _say(text: str) -> None:
    click.echo(text, err=True)


def _traceback_if_asked(code: int) -> int:
    if os.environ.get("NVEMBED_DEBUG", "") not in {"", "0"}:
        traceback.print_exc()
    return code


def _write_log() -> Path:
    with tempfile.NamedTemporaryFile("w", prefix="nvembed-", suffix=".log", delete=False, encoding="utf-8") as stream:
        stream.write(f"nvembed {__version__}: {' '.join(sys.argv[1:])}\n\n{traceback.format_exc()}")
    return Path(stream.name)
