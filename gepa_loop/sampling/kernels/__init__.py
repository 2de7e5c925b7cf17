"""Triton kernels of one decoded token, where PyTorch would launch five small ones for each.

They compute what the Llama family's modules in `transformers` do, in the same order of roundings where it matters: sums in
float32, results in the model's type. `_R` are slots of the key-value cache, `_B` the rows of a launch, each in a slot.
"""
