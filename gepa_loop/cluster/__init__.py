"""Pieces of work, given to workers: nothing here knows of models or prompts."""
