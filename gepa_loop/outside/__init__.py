"""What comes from outside is not trusted: files and code that users name, and what may be shown of a text."""
