"""From Python: a model to ask (load.py, model.py), and a job as on the command line (jobs.py)."""
