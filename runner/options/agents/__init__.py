"""A team of agents on one question: who hears whom, what each is told, and the sandbox for programs
they write."""
