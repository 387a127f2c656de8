"""Python's search path in the fork server, which imports this module before all others.

The server is started by `python -c`, with which Python looks for modules in the current folder
first: a program's `click.py` there, say, would be taken for a library.
"""

from __future__ import annotations

import sys

PATH = list(sys.path) if sys.flags.safe_path else sys.path[1:]
"""Search path without its first folder, which is a script's own."""
if sys.path[:1] == [""]:
    del sys.path[0]
