"""vLLM beside the model."""
