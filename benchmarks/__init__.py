"""Ratios against the naive way, both measured in one run."""
