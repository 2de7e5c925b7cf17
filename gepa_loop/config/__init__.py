"""What a run is made from: the tables and their keys, presets, and how a value is found."""
