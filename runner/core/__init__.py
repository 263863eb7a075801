"""Foundation of all other packages, on which it does not depend: errors, results, statistics,
progress, machine.
"""
