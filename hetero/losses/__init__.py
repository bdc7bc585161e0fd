"""Losses: one idea a file, and their weighted sum in ``compatibility.py``."""
