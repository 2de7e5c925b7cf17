"""From a user's data and prompt to a first run: what they are, what fits them, and what is wrong with it."""
