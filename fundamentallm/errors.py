"""The one error that a user's mistake or a machine's refusal becomes."""


class FundamentallmError(Exception):
    """Something a person can mend; the message is one line: what, where, what would do.

    The command line catches this class and no other, prints its message and ends
    with its exit code. Anything else that escapes is a bug and keeps its traceback.
    """

    exit_code = 2
    """Bad input, unless a subclass knows better (exit_codes.py)."""
