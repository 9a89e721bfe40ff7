"""What the paper prints, and ours next to it: figures, tables, drawings."""
