"""The proxy's servers: HTTP/1.1 and HTTP/2 on one port, plain or over TLS."""
