"""Exceptions as the user sees them: lines on stderr and an exit status."""

import os
import re
import sys
import traceback
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from diladiff_cli.cli.output import ClosedPipeError
from diladiff_cli.errors import UserError, system_error
from diladiff_cli.settings import ConfigError
from diladiff_cli.shipped import SHIPPED_MODEL, SHIPPED_NAME

USUAL = {"--lr": "--learning-rate", "--bs": "--batch-size"}  # as other tools call them

DONE, FAILED, WRONG_USAGE, SIGNALLED = 0, 1, 2, 128
SIGINT = 2


class Terminated(SystemExit):
    """A signal came; outside of :func:`diladiff_cli.cli.main.run` it ends the process with 128 plus its number."""

    def __init__(self, number: int) -> None:
        super().__init__(SIGNALLED + number)
        self.number = number


def wants_debug(arguments: Sequence[str]) -> bool:
    """Whether --debug stands among the options, or DILADIFF_DEBUG is set."""
    return without_debug(arguments) != [*arguments] or os.environ.get("DILADIFF_DEBUG", "0") not in ("", "0")


def without_debug(arguments: Sequence[str]) -> list[str]:
    """The arguments without --debug, which may stand before the command or after it, up to a --."""
    options = list(takewhile(lambda argument: argument != "--", arguments))
    return [argument for argument in options if argument != "--debug"] + [*arguments[len(options) :]]


def report(error: BaseException, arguments: Sequence[str]) -> int:
    """Print what the user needs to know of an exception, of several processes one alone; returns the exit status."""
    status, lines = explain(error, arguments)
    processes = sys.modules.get("diladiff_cli.runtime.processes")  # loaded where there are several
    first = processes.first_to_end(status) if processes is not None else None
    if first is not None:
        speaks = first[0]
        if is_lost_process(error):  # the other one's end was the cause, perhaps no failure
            status = first[1]
    elif is_lost_process(error):  # the main process, which keeps the notes, is gone
        speaks = os.environ.get("LOCAL_RANK", "0") == "0" or os.environ.get("RANK") == "1"
    else:
        # One process of each machine speaks, but nobody's unforeseen failure is lost.
        speaks = os.environ.get("LOCAL_RANK", "0") == "0" or not is_foreseen(error)
    if speaks:
        if status == FAILED and wants_debug(arguments):
            traceback.print_exception(error)
        for line in lines:
            print(line, file=sys.stderr, flush=True)
    return status


def is_foreseen(error: BaseException) -> bool:
    """Whether it is something that the user can mend, or several faults of the kind that :func:`explain` lists."""
    if isinstance(error, ExceptionGroup):
        return all(isinstance(part, UserError) for part in error.exceptions)
    return isinstance(error, UserError | ConfigError)


def is_lost_process(error: BaseException) -> bool:
    """Whether processes could not work together any more, as a rule because another one ended."""
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    known = getattr(distributed, "DistBackendError", None)  # of GPUs; on the CPU it has no class of its own
    return (known is not None and isinstance(error, known)) or (
        isinstance(error, RuntimeError) and "gloo/transport" in str(error)
    )


def is_of_compiler(error: BaseException) -> bool:
    """Whether torch could not compile a network, as where there is no C++ compiler."""
    known = getattr(sys.modules.get("torch._dynamo.exc"), "TorchDynamoException", ())
    return isinstance(error, known)


def explain(error: BaseException, arguments: Sequence[str] = ()) -> tuple[int, list[str]]:
    """Exit status and lines for stderr."""
    session = sys.modules.get("diladiff_cli.runtime.session")  # loaded where one of its exceptions is about
    if isinstance(error, ClosedPipeError):
        return DONE, []
    if isinstance(error, KeyboardInterrupt):
        return SIGNALLED + SIGINT, ["interrupted"]
    if isinstance(error, Terminated):
        return int(str(error)), ["terminated"]
    if session is not None and isinstance(error, session.Interrupted):
        return SIGNALLED + error.signal_number, [str(error)]
    if isinstance(error, ConfigError):
        return WRONG_USAGE, [f"error: {' '.join(problem.splitlines())}" for problem in error.problems]
    if isinstance(error, UserError):
        return FAILED, [_told(error)]
    if isinstance(error, ExceptionGroup) and is_foreseen(error):
        return FAILED, list(dict.fromkeys(map(_told, error.exceptions)))
    if hasattr(error, "format_message"):  # the command-line parser's, whose base class has no public name
        return getattr(error, "exit_code", WRONG_USAGE), [f"error: {_usage(error, arguments)}"]
    cause = system_error(error)
    if cause is not None and cause.errno is not None:
        place = f"cannot use {cause.filename}" if cause.filename is not None else "reading or writing failed"
        remedy = "check that it is there, that there is room, and what you may do there"
        return FAILED, [f"error: {one_line(place)} ({cause.strerror}); {remedy}"]
    first = next(iter(str(error).strip().splitlines()), "").rstrip(".")
    if is_lost_process(error):
        what = "another process of this run ended or cannot be reached"
        reason = re.sub(r"^\[[^]]*\] *", "", first).partition(". ")[0]  # without the place in a library's source
        return FAILED, [f"error: {what} ({reason}); see what it or its launcher says, then give the same command again"]
    what = f"{type(error).__name__}: {first}" if first else type(error).__name__
    remedy = "for the traceback add --debug"
    if is_of_compiler(error):
        what, remedy = f"torch.compile failed ({first})", f"use --no-compile, or {remedy}"
    return FAILED, [f"error: {what}; {remedy}"]


def _told(error: Exception) -> str:
    """The line of a fault, in which what ships has its name in place of its path."""
    return f"error: {one_line(str(error).replace(str(SHIPPED_MODEL), SHIPPED_NAME))}"


def one_line(text: str) -> str:
    """The text with every run of white space as one space."""
    return " ".join(text.split())


def _usage(error: BaseException, arguments: Sequence[str]) -> str:
    """``what; how to mend it`` from a parser's error."""
    context = getattr(error, "ctx", None)
    # The parser forgets the command where an option lacks its value.
    words = ["diladiff", *(argument for argument in arguments if not argument.startswith("-"))]
    remedy = f"see {context.command_path if context else ' '.join(words[:2])} --help"
    text = one_line(error.format_message()).rstrip(".").replace("Value error, ", "")  # type: ignore[attr-defined]
    if options := _meant_options(error):
        text, remedy = one_line(error.message), f"did you mean {' or '.join(options)}?"  # type: ignore[attr-defined]
    elif ". Did you mean " in text:
        text, _, names = text.partition(". Did you mean ")
        remedy = f"did you mean {names}"
    elif text.startswith("Got unexpected extra argument") and "--model" in _options(context):
        prompt = ", a prompt by --prompt" if "--prompt" in _options(context) else ""
        remedy = f"a model is named by --model{prompt}, or {remedy}"
    elif text.startswith(("Missing command", "No such command")) and context is not None:
        remedy = f"give one of {', '.join(context.command.commands)}, or {remedy}"
    return f"{text[:1].lower()}{text[1:]}; {remedy}"


def _meant_options(error: BaseException) -> list[str]:
    """What was perhaps meant by an option that there is not, nearest first."""
    given, near = getattr(error, "option_name", None), getattr(error, "possibilities", None) or []
    return [USUAL[given]] if given in USUAL and USUAL[given] in _options(error.ctx) else [*near]  # type: ignore[attr-defined]


def _options(context: Any) -> set[str]:
    """The spellings of a command's options, from the parser's context."""
    parameters = context.command.params
    return {spelling for parameter in parameters for spelling in (*parameter.opts, *parameter.secondary_opts)}


def out_of_memory(batch_size: int | None, grad_accum: int | None) -> UserError:
    """What to do about it: smaller micro-batches in training, smaller batches elsewhere."""
    if batch_size is None:
        return UserError("out of memory", "free some, or use a smaller network")
    if grad_accum is None:
        return UserError(f"out of memory at --batch-size {batch_size}", f"try --batch-size {max(1, batch_size // 2)}")
    return UserError(
        f"out of memory at --batch-size {batch_size} with --grad-accum {grad_accum}",
        f"try --grad-accum {2 * grad_accum}, which gives the same numbers",
    )
