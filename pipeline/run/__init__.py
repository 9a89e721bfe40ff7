"""Makes one artifact: needs networks, artifacts or pixels."""
