"""Python interface: models to generate with (load.py, model.py, answers.py), and jobs as on the
command line (jobs.py).
"""
