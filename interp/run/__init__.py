"""A run on disk: its records, its processes, its continuation, and what it will take."""
