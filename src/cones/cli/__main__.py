"""``python -m cones.cli``: the command line where the console script is not on the path."""

from cones.cli import main

main()
