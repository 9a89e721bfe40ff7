"""The networks of DyeNet: tensors in, tensors out."""
