import io
import json
import math
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from diladiff_cli.cli.output import document, write
from diladiff_cli.integrity import finite

from ..chain import Chain
from ..command_line import environment
from .scripts import finish, start


def test_what_libraries_print_never_reaches_stdout() -> None:
    body = """
print("chatter of Python")
os.write(1, b"chatter of compiled code\\n")
os.system("echo chatter of a child")
return [{"n": 1}]
"""
    status, out, err = finish(start(body))
    assert status == 0
    assert out == '{"n": 1}\n'
    assert sorted(err.splitlines()) == ["chatter of Python", "chatter of a child", "chatter of compiled code"]


def test_lines_are_flushed_one_by_one() -> None:
    process = start("yield {'n': 1}\ntime.sleep(600)")
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], 300)
    line = process.stdout.readline() if ready else ""
    process.kill()
    finish(process)
    assert line == '{"n": 1}\n'


def test_a_closed_pipe_ends_quietly() -> None:
    process = start("return ({'n': n} for n in range(10**9))")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == '{"n": 0}\n'
    process.stdout.close()
    assert process.wait(timeout=600) == 0
    assert process.stderr.read() == ""
    process.stderr.close()


def test_a_closed_pipe_elsewhere_is_an_error() -> None:
    status, out, err = finish(start("raise BrokenPipeError('a tracker went away')"))
    assert (status, out) == (1, "")
    assert err == "error: BrokenPipeError: a tracker went away; for the traceback add --debug\n"


@pytest.mark.parametrize(
    ("arguments", "count"),
    [(("try",), 0), (("--debug", "try"), 2), (("try", "--debug"), 2)],
    ids=["no", "first", "last"],
)
def test_warnings_of_libraries_are_shown_with_debug_alone(arguments: tuple[str, ...], count: int) -> None:
    body = """
import logging, warnings
warnings.warn("be warned")
logging.getLogger("library").warning("be warned")
"""
    status, out, err = finish(start(body, arguments))
    assert (status, out) == (0, "")
    assert err.count("be warned\n") == count


def test_only_the_main_process_of_several_writes() -> None:
    body = """
from diladiff_cli.cli.output import show
from diladiff_cli.notes import say
say("a note")
show("a table")
return [{"n": 1}]
"""
    assert finish(start(body, RANK="1")) == (0, "", "")
    assert finish(start(body, RANK="0")) == (0, '{"n": 1}\n', "a note\na table\n")


def test_one_process_of_a_machine_reports_an_error_of_the_user() -> None:
    body = "from diladiff_cli.errors import UserError\nraise UserError('no data', 'make some')"
    assert finish(start(body, RANK="5", LOCAL_RANK="1")) == (1, "", "")
    assert finish(start(body, RANK="4", LOCAL_RANK="0")) == (1, "", "error: no data; make some\n")
    body = body.replace("raise ", "raise ExceptionGroup('two', [") + ", UserError('no model', 'name one')])"
    both = "error: no data; make some\nerror: no model; name one\n"
    assert finish(start(body, RANK="5", LOCAL_RANK="1")) == (1, "", "")
    assert finish(start(body, RANK="4", LOCAL_RANK="0")) == (1, "", both)


def test_a_mapping_is_one_indented_document() -> None:
    stream = io.BytesIO()
    write({"a": [1, "ü"]}, stream)
    text = stream.getvalue().decode()
    assert json.loads(text) == {"a": [1, "ü"]}
    assert text == document({"a": [1, "ü"]}) + "\n"
    assert "ü" in text


def test_strings_are_written_as_they_are() -> None:
    stream = io.BytesIO()
    write(["a", {"b": None}], stream)
    assert stream.getvalue() == b'a\n{"b": null}\n'


def test_infinities_become_null_since_json_has_none() -> None:
    values = {"a": math.inf, "b": [math.nan, 1.5, (2, -math.inf)], "c": {"d": math.nan}, "e": "NaN"}
    assert finite(values) == {"a": None, "b": [None, 1.5, [2, None]], "c": {"d": None}, "e": "NaN"}


def test_sigterm_outside_training_cleans_up_and_exits_143() -> None:
    body = """
try:
    print("ready", flush=True)
    time.sleep(60)
finally:
    print("cleaned up", flush=True)
"""
    process = start(body)
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    process.terminate()
    assert finish(process) == (143, "", "cleaned up\nterminated\n")


def test_sigint_outside_training_exits_130() -> None:
    process = start("print('ready', flush=True)\ntime.sleep(60)")
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert finish(process) == (130, "", "interrupted\n")


@pytest.mark.parametrize("tables_there", [True, False])
def test_info_on_a_terminal_is_its_tables_alone(tiny_chain: Chain, tables_there: bool) -> None:
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "diladiff_cli", "info", str(tiny_chain.mdlm)]
    errors = theirs if tables_there else subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=theirs, stderr=errors, env=environment())
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # the end of a terminal
        while part := os.read(ours, 1 << 16):
            shown += part
    os.close(ours)
    assert process.wait(600) == 0
    assert (b"made by" in shown, b'"hash":' in shown) == (tables_there, not tables_there)


@pytest.mark.parametrize("columns", ["1", "5", "20"])
def test_tables_survive_a_narrow_terminal(tiny_chain: Chain, columns: str) -> None:
    command = [sys.executable, "-m", "diladiff_cli", "info", str(tiny_chain.mdlm)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment() | {"COLUMNS": columns})
    assert done.returncode == 0
    assert done.stderr.startswith("Masked diffusion")
    assert max(map(len, done.stderr.splitlines())) <= 20
