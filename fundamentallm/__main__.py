"""`fundamentallm ...`, and `python -m fundamentallm ...`."""

import signal

if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
    # While modules are loaded there is nothing to save and nobody to catch an exception.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from fundamentallm.cli.main import main

if __name__ == "__main__":
    main()
