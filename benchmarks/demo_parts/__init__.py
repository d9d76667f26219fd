"""The parts of demo.py: who produces, who consumes, who kills, who checks."""
