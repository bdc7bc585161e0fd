"""Benchmarks: ratios against a peer or a bound, measured in one run; never part of the tests."""
