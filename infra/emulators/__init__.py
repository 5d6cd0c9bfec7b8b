"""Writes docs/emulators.md: what each engine gets right, from real runs of the checks."""
