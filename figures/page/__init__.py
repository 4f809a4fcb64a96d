"""`report.html`: everything that a run says, in one file that needs no server, no network and no model."""
