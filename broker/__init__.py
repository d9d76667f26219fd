"""The embedded broker: topics, producers, consumers and groups over a directory."""
