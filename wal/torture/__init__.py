"""Breaking the storage engine on purpose, and showing that nothing acknowledged is lost.

Imported by the command ``seawall torture`` and by tests, by nothing else.
"""
