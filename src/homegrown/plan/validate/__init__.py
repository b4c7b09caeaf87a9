"""Published runs, replayed: what the planner says of them from their inputs alone, beside what was published."""
