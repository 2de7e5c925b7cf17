"""What completions are worth: scored rollouts, statistics, the decision, and how a number is printed."""
