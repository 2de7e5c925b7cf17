"""How a layer of the Llama family is computed by fewer operations than its modules take: in training, for a prompt, for one token."""
