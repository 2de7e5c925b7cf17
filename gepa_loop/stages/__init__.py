"""The stages as the commands run them, one file each."""
