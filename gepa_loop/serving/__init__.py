"""What becomes of a student after its run: talked to, served, exported."""
