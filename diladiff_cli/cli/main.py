"""The app, and its way from arguments to an exit status."""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from diladiff_cli import __version__
from diladiff_cli.cli.artifacts import export, info
from diladiff_cli.cli.bench import bench
from diladiff_cli.cli.command import PlainGroup
from diladiff_cli.cli.encode import encode
from diladiff_cli.cli.evaluate import evaluate
from diladiff_cli.cli.failures import DONE, Terminated, report, wants_debug, without_debug
from diladiff_cli.cli.output import connect_processes, quiet_libraries
from diladiff_cli.cli.plot import plot
from diladiff_cli.cli.sample import sample
from diladiff_cli.cli.streams import discard, settle_streams
from diladiff_cli.cli.train import distill, train_ae, train_mdlm, train_prior
from diladiff_cli.runtime.heap import keep_freed_memory
from diladiff_cli.runtime.signals import STOPPING, is_heard
from diladiff_cli.runtime.threads import wait_briefly

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

AGAIN = 0.05  # seconds, in which the callback ends

# In the order of the pipeline, which is that of the help.
COMMANDS = (encode, train_mdlm, train_ae, train_prior, distill, sample, evaluate, bench, plot, info, export)

HELP = {"-h", "--help"}
TOLD = HELP | {"--version"}  # what is written and done, whether or not it is read to its end
app = typer.Typer(
    name="diladiff",
    cls=PlainGroup,
    help="Fast, high-quality text from latent-augmented masked diffusion language models.",
    epilog="Try it: $ diladiff sample --n 3 --format text",
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": sorted(HELP)},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"diladiff {__version__}", flush=True)
        raise typer.Exit


@app.callback()
def global_options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, metavar="", callback=_print_version, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", metavar="", help=r"Show tracebacks and the warnings of libraries. \[env: DILADIFF_DEBUG]"
        ),
    ] = False,
) -> None:
    """Options before the command; --debug may stand anywhere, and :func:`wants_debug` reads it before the parser."""


for _command in COMMANDS:
    _command.add_to(app)


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit status, after any error was reported on stderr."""
    group = typer.main.get_command(app)
    try:
        with group.make_context("diladiff", without_debug(arguments)) as context:
            connect_processes()
            group.invoke(context)
    except typer.Exit as stop:
        return stop.exit_code
    except (Exception, KeyboardInterrupt, Terminated) as error:
        if isinstance(error, BrokenPipeError) and TOLD & set(arguments):
            discard(1)  # where what is still buffered goes when Python ends
            return DONE
        return report(error, arguments)
    except SystemExit:  # of rich, where whoever read the help has had enough
        if TOLD & set(arguments):
            return DONE
        raise
    return DONE


def _terminate(number: int, _: FrameType | None) -> NoReturn:
    # An exception, so that what is half written is removed; training has its own handler, which saves.
    raise Terminated(number)


def _send_again(lost: "UnraisableHookArgs") -> None:
    # Where a callback of Python's own was interrupted, as many are in imports, what a handler raises ends there.
    if not isinstance(lost.exc_value, KeyboardInterrupt | Terminated):
        sys.__unraisablehook__(lost)
    elif not sys.is_finalizing():  # as then no other thread would ever run
        number = lost.exc_value.number if isinstance(lost.exc_value, Terminated) else signal.SIGINT
        threading.Timer(AGAIN, os.kill, [os.getpid(), number]).start()


def answer_signals() -> None:
    """Let the signals that end a process raise an exception in the main thread, so that what is open is closed."""
    for number in STOPPING:
        if number != signal.SIGINT and is_heard(number):  # of which Python makes an exception by itself
            signal.signal(number, _terminate)
    sys.unraisablehook = _send_again


def leave(status: int) -> NoReturn:
    """End this process. After a failure of one of several, whose connections may be broken, nothing is cleaned up.

    Everything is closed by then, and the threads of a broken connection can abort a process that ends as usual.
    """
    distributed = sys.modules.get("torch.distributed")
    if status != DONE and distributed is not None and distributed.is_available() and distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def main() -> NoReturn:
    """The console script."""
    settle_streams()
    answer_signals()
    if not wants_debug(sys.argv[1:]):
        quiet_libraries()
    keep_freed_memory()
    wait_briefly()
    leave(run(sys.argv[1:]))
