"""Items and their splits, prompts, how a reply is read and what it is worth."""
