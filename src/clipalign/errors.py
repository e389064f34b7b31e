"""The one exception that stands for a mistake the user can mend."""

from __future__ import annotations


class UserError(Exception):
    """Bad input: the message names the option or the file, and says what to do.

    The command line prints it as one line and exits with code 2; no traceback is shown, since the cause is
    not in this package.
    """
