"""The version of the package, which a run's config.json names."""

VERSION = "0.2.0"
