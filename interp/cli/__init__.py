"""Commands: how they read options, how they end, what they draw at the end."""
