"""GEPA's search for teacher prompts. Everything of `gepa` and `dspy` is imported in this package only."""
