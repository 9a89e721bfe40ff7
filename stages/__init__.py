"""The paper's boxes, one file each: pure functions from arrays and settings to arrays."""
