"""One module for each kind of operation: how the proxy answers a call of it."""
