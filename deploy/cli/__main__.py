"""`python -m deploy.cli` is `sluiceway`."""

from deploy.cli import main

main()
