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
    """Return what an error says as one line; an unexpected one is named by its type.

    An error from a data-loading process arrives with that process's traceback in its text; the last line
    of that is the error itself.
    """
    text = str(error).strip()
    if "Traceback (most recent call last)" in text:
        name = f"{type(error).__module__}.{type(error).__qualname__}: "
        text = text.splitlines()[-1].strip().removeprefix(name)
    line = " ".join(text.split())
    if isinstance(error, SocoError):
        return line or type(error).__name__
    return f"{type(error).__name__}: {line or 'no message'}"
