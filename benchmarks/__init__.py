"""How fast seawall is, as ratios against bare system calls in the same run.

    python -m benchmarks [ROW…] [--quick] [--dir FOLDER]

Every row is a module with a `measure` function; `measure.py` says how rounds are taken.
"""
