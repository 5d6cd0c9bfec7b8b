"""An amazon-kclpy application: the Kinesis Client Library reads, a Python sink stores.

The launcher (`launch`) verifies the jars, finds a JVM, writes the daemon's configuration and
becomes the JVM. The daemon starts one `child` per shard; the two talk over a pipe (`channel`,
`protocol`), and the child hands records to a sink (`processor`). `events` is how a supervisor sees
what the worker does.
"""
