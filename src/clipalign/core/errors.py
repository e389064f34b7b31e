"""Exceptions for errors that the user can fix."""

from __future__ import annotations


class UserError(Exception):
    """Invalid input. The message names the option or the file, and says how to fix it.

    The command line prints the message on one line without a traceback, and exits with status 2.
    """


class UnseenClasses(UserError):
    """A model cannot score a class list that it was not trained on.

    Evaluation writes a row without accuracy, with the message as the reason, and continues.
    """
