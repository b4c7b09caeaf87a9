"""The child process of `ProcessBackend`: `python -m homegrown.serve.worker DESCRIPTOR`."""

import sys

from homegrown.serve.worker.child import main

main(int(sys.argv[1]))
