"""A further rank of a replica, started by its first one: `python -m homegrown.serve.spread`."""

from homegrown.serve.spread.replica import main

main()
