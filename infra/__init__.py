"""The ground: stacks, provisioning, and the proxy."""
