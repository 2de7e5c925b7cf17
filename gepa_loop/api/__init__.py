"""What `import gepa_loop` offers to Python programs."""
