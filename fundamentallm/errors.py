"""The one error that a user's mistake or a machine's refusal becomes."""


class FundamentallmError(Exception):
    """Something a person can mend; the message is one line: what, where, what would do.

    The command line catches this class and no other, prints its message and ends
    with exit code 2. Anything else that escapes is a bug and keeps its traceback.
    """
