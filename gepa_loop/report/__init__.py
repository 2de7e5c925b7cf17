"""The page of a run. It reads nothing but the run directory."""
