"""`python -m hanmo` is the command line."""

from hanmo.cli import main

main()
