"""LoRA adapters: as values, in training, and what they add to a layer."""
