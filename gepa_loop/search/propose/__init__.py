"""Who writes the next prompt: rules, or a reflection model."""
