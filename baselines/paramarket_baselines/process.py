"""The process of a command: signals, closed pipes, the encoding of its output, and its exit status.

This module imports nothing that takes time, so that an interrupt is answered while a command is still being imported.
"""

from __future__ import annotations

import _thread
import codecs
import io
import os
import signal
import sys
from collections.abc import Callable
from threading import Timer
from types import FrameType

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
"""The message after each signal that ends a command. The exit status is 128 plus the number of the signal."""

ASCII = str.maketrans("±–−…×÷→│─╭╮╰╯", "~--.x/>|-++++")
"""Replacements of our own characters if the encoding of the output lacks them. All others become question marks."""


class Stopped(KeyboardInterrupt):
    """A signal asks the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = signal.Signals(number)


def exit_at_once() -> None:
    """Let signals end the process without delay, for the time in which there is nothing to tidy up."""

    def leave(number: int, _: FrameType | None) -> None:
        os.write(2, f"{WORDS[signal.Signals(number)]}\n".encode())
        os._exit(128 + number)

    for number in WORDS:
        signal.signal(number, leave)


def run_to_end(command: Callable[[], int | None]) -> int:
    """Run a command and return its exit status.

    A signal ends it with one line after its clean-up, a closed pipe without a word.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ERRORS)
    hook = sys.unraisablehook
    try:
        sys.unraisablehook = _ask_again
        for number in WORDS:
            signal.signal(number, _stop)
        return _finished(command)
    except Stopped as stopped:
        print(WORDS[stopped.number], file=sys.stderr)
        return 128 + stopped.number
    except BrokenPipeError:
        # Python flushes the output once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + 13  # SIGPIPE, which some systems lack
    finally:
        sys.unraisablehook = hook
        exit_at_once()


def _stop(number: int, _: FrameType | None) -> None:
    raise Stopped(number)


def _ask_again(ignored: sys.UnraisableHookArgs) -> None:
    """Repeat a signal whose exception Python ignores, as it does in a finalizer and in a weak reference's callback."""
    if isinstance(ignored.exc_value, Stopped):
        # Not at once: the exception would be raised in this hook, and ignored again.
        Timer(0.01, _thread.interrupt_main, (ignored.exc_value.number,)).start()
    else:
        sys.__unraisablehook__(ignored)


def _finished(command: Callable[[], int | None]) -> int:
    try:
        return command() or 0
    finally:
        if sys.stdout is not None:  # closed by whoever started the command
            sys.stdout.flush()  # not at exit, where Python would report a closed pipe


ERRORS = "replace-with-ascii"
"""The name of the error handler for characters that the encoding of the output lacks."""


def _replacements(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(ASCII)
    return text.encode("ascii", errors="replace").decode(), error.end


codecs.register_error(ERRORS, _replacements)
