"""The commands that make a run, for the command line and for Python programs alike."""
