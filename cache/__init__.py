"""Typed, verified, content-addressed HDF5 artifacts (docs/artifacts.md)."""
