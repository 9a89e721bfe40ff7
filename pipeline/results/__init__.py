"""Writes the output folder, and scores it."""
