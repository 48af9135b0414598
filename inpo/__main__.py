"""`python -m inpo`, which is also what `accelerate launch -m inpo` runs."""

from inpo.cli.app import main

main()
