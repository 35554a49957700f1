"""`python -m marketplace.cli`: the same as `tokenmart`."""

from marketplace.cli import main

main()
