"""What a person types: the `kit` command and the demo."""
