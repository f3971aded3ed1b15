"""The subjects and measurements of `benchmarks.ops_batching`."""
