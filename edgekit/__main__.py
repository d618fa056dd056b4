"""`python -m edgekit`, for torchrun."""

from edgekit.cli import main

main()
