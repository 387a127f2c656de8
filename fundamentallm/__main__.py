"""`python -m fundamentallm` is `fundamentallm`."""

from fundamentallm.cli.main import main

main()
