"""Models behind APIs, by litellm: who is asked, what went wrong, what it cost."""
