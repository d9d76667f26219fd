"""Breaking a whole directory on purpose: its logs, its catalogue and its groups.

Imported by the command ``seawall torture`` and by tests, by nothing else.
"""
