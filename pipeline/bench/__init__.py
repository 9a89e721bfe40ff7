"""What the method takes on this machine: `dyenet speed`, `bench` and `bench-sweep`."""
