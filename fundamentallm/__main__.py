"""`fundamentallm ...`, and `python -m fundamentallm ...`."""

import os
import signal

if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
    # While modules are loaded there is nothing to save and nobody to catch an exception.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

# Read when torch is loaded, by its OpenMP: threads that wait by turning in circles take the cores
# from those they wait for, if other programs are at work too (docs/dev/performance.md).
if "GOMP_SPINCOUNT" not in os.environ:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from fundamentallm.cli.main import main

if __name__ == "__main__":
    main()
