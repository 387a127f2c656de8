"""The base of errors that a user can fix, and how to print any error in one line."""


class FundamentallmError(Exception):
    """An error that a user can fix; the message says what is wrong, where, and what to do.

    The command line prints the message of this class and exits with its code. Any other exception
    is a bug and keeps its traceback.
    """

    exit_code = 2
    """Bad input, unless a subclass sets another (exit_codes.py)."""


def one_line(message: object, limit: int | None = None) -> str:
    """Return an exception's message, or another text, on one line of at most `limit` characters."""
    return " ".join(str(message).split())[:limit]


def type_and_message(error: BaseException) -> str:
    """Return `ValueError: its message` on one line; the type alone if there is no message."""
    return ": ".join(filter(None, (type(error).__name__, one_line(error))))
