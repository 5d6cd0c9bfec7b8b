"""A Kinesis client that speaks CBOR: boto3's calls for a fraction of boto3's CPU."""
