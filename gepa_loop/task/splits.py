"""The splits of a task, by name."""

SPLITS = ("train", "pareto", "race", "select", "test")
FILL_ORDER = ("test", "select", "pareto", "train", "race")
"""The test split comes first, so that no other split's size changes it."""
FRESH = ("select", "race")
"""Splits of which each round has items of its own."""
