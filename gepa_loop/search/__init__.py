"""GEPA's search for teacher prompts. Everything of `gepa` is imported in this package only; of `dspy`, here and in `lm`."""
