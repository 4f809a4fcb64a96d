"""ADVICE and ConfTuner: the cure for answer-independence, and its rival."""
