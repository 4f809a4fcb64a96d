"""Pipelines: from a model and questions to the records and the summary of a run. They draw no figures."""
