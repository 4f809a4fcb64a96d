"""Methods: how a confidence is obtained from a model. One module for each method; the registry holds all of them."""
