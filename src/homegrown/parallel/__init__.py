"""Parallel implementations of the model's seams: who holds what, who talks to whom, and in which order sums are formed."""
