"""`python -m jepsen_like` is `jepsen_like`."""

from jepsen_like.cli import main

main()
