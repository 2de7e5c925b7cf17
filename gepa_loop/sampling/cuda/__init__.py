"""The in-process sampler on a GPU, captured in CUDA graphs."""
