"""Errors that a user can act on: one line that names the file, field or value, and the remedy."""

from __future__ import annotations


class SocoError(Exception):
    """Something outside the program is wrong (an input, a setting, the machine).

    The command line prints its text as one line and exits with status 2; a traceback is shown only
    with ``--debug``. The text names the file, field or value, and what to do about it.
    """


class RecipeError(SocoError):
    """A recipe, or a ``--set`` override, is not valid."""


class InputError(SocoError):
    """An input (a folder, an image set, annotations, weights) is missing or not what it should be."""


class ResultLockedError(SocoError):
    """Another process is writing to the same result directory."""


class InterruptedStageError(SocoError):
    """The stage was asked to stop (SIGINT or SIGTERM); what it had done is kept."""


def one_line(error: BaseException) -> str:
    """Return what an error says as one line.

    An error from a data-loading process arrives with that process's traceback in its text; its last line
    is the error itself. An unexpected error is named by its type.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, SocoError):
        last = lines[-1] if lines else type(error).__name__
        return last.removeprefix(f"{type(error).__module__}.{type(error).__qualname__}: ")
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"
