"""One thin file per command; a stage is imported inside the command that runs it."""
