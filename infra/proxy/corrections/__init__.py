"""What emulators answer otherwise than AWS does, put right."""
