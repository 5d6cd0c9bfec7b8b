"""The checks, a module for each field."""
