"""Keeps a run going without operators: starts workers, watches them, restarts what fails. Imports no torch."""
