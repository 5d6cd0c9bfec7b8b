"""How records get out."""
