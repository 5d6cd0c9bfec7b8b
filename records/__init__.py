"""What travels on a stream: limits, hashing, aggregation, record IDs, dead letters.

And the list of hosts that are AWS's, on which every room must agree. Pure: no I/O of its own, no
threads.
"""
