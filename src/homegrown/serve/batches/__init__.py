"""Offline work: uploaded files of requests, answered when nobody else is waiting. Imports no torch."""
