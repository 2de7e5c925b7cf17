"""What workers do of a run: answer prompts, train students. Only the command writes its directory."""
