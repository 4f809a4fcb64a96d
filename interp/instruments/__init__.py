"""What is measured: one module an instrument. They see models and cases, and nothing of a run or a figure."""
