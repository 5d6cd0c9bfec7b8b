"""Where records end: each sink applies a record ID once and keeps the order of every key."""
