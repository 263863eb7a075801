"""Use from Python: a model to generate with (load.py, model.py, answers.py), and a job as on the
command line (jobs.py)."""
