"""Training of the networks on readers that the pipeline hands over."""
