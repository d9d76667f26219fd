"""The storage engine: one partition's log on disk."""
