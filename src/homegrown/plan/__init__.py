"""How long a run takes, what it needs, uses and costs, and whether a claim about one can be true. Imports no torch."""
