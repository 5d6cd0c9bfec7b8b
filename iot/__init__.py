"""Devices, shadows, and the bridge from MQTT to a stream."""
