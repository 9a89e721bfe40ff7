"""What a person runs: `luigi --module pipeline RunDataset`, or the command `dyenet`."""

from pipeline import engine

engine.install()

from pipeline.roots import RunDataset, SweepThreshold  # noqa: E402 - needs Luigi set up

__all__ = ["RunDataset", "SweepThreshold"]
