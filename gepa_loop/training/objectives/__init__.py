"""Objectives: what each asks of the teacher, its advantages and its loss, one file each."""
