"""The exceptions that stand for what the user can mend or has to know."""

from __future__ import annotations


class UserError(Exception):
    """Bad input: the message names the option or the file, and says what to do.

    The command line prints it as one line and exits with code 2; no traceback is shown, since the cause is
    not in this package.
    """


class UnseenClasses(UserError):
    """A model cannot score a class list because it was not trained on it.

    Evaluation writes a row without accuracy, with the message as its reason, and goes on.
    """
