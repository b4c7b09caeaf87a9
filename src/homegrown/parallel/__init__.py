"""Training on many devices: who holds what, who talks to whom, and in which order sums are formed."""
