"""The fixture `grid`: `python -m runner -m …` in a process that a test can watch and kill."""

from grid_fixture import grid as grid
