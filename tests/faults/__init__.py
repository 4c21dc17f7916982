"""Faults put into real trainings, to see that nothing is lost: `python -m tests.faults`."""
