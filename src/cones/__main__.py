"""``python -m cones`` is the command ``cones``."""

from cones.cli import main

if __name__ == "__main__":
    main()
