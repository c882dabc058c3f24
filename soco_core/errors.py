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
