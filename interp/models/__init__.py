"""A checkpoint under study: loaded, prompted, read and hooked. Nothing here knows what is measured."""
