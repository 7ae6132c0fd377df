"""`python -m pdmd`."""

from pdmd.cli import main

main()
