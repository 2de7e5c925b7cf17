"""What commands say with `--json`: one object each, whose keys a later version may add to. `schema_version` is that of the files of runs."""
