"""What travels on a stream: limits, hashing, aggregation, record IDs, dead letters.

Pure: no I/O of its own, no threads.
"""
