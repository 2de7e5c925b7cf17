"""From hidden states to losses, a chunk of the vocabulary's logits at a time."""
