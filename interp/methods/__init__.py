"""How a confidence is had from a model: one file a method, all of them in the registry."""
