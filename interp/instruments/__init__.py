"""The instruments, one module each: what is measured of a model on its cases.

An instrument takes a setting and cases and returns records. It knows nothing of runs, and it imports its figures only
where they are drawn."""
