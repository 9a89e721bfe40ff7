"""What the method takes on this machine: seconds, memory, bytes (`dyenet speed`, `dyenet bench`)."""
