"""Training on many devices: the processes of a run, their groups, and what travels between them."""
