"""Runs as jobs of a Slurm cluster: the script, its submission, how far its tasks are, what they come to."""
