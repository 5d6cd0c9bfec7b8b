"""What AWS documents about Kinesis and DynamoDB, as checks that run against any endpoint."""
