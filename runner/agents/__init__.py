"""A team of agents on one question: who hears whom, what each is told, and model-written programs held in a sandbox."""
