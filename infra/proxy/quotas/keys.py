"""What quotas are kept by."""

from infra.proxy.messages import Identity

StreamKey = tuple[Identity, str]
"""Whose a stream is, and its name."""
