"""`runner-compare gate` and `runner-compare pack`: decide whether candidates may ship.

The steps: read a baseline and candidates (runs.py) → check each candidate against the policy
(compute.py) → print the verdicts, and write files for CI (render/).
"""
