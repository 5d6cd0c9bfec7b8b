"""The demo: devices, a stream, a reshard, a killed consumer, and a verdict."""
