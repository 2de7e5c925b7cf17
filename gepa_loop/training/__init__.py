"""On-policy context distillation of a prompt into a LoRA adapter."""
