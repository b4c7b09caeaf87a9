"""`python -m homegrown` is the `homegrown` command, for launchers that want a module (`torchrun -m homegrown ...`)."""

import sys

from homegrown.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
