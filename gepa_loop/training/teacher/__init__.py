"""Who reads the prompt: a model in this process, or one on a server."""
