"""Diagnostics of answer-independence in verbalized confidence."""
