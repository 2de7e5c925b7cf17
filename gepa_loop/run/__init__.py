"""Run directories: their files, what they are recognised by, seeds, and the ledger of looks at `test`."""
