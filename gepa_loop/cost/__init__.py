"""What a run costs, and from how many calls on its student pays for itself."""
