"""A proxy in front of a local Kinesis endpoint that makes the network misbehave on request."""
