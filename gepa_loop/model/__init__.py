"""Models and adapters: what is loaded, and how a Llama layer is computed."""
