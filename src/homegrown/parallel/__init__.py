"""Training on many devices: the layout of ranks, their groups and collectives, what each of them is doing."""
