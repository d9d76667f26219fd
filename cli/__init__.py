"""The command line: one verb, one file; each parses, calls the broker and prints."""
