"""The option multiple_choice: task=multiple_choice asks questions with given choices, as lm-eval's tasks do."""
