"""Pages to look at a run, a sweep or two runs: each one HTML file that needs no other."""
