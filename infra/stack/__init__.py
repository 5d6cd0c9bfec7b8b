"""The engines the toolkit runs on: embedded, in containers, found in the environment, or AWS."""
