"""Follow mode: files of the log are trained on as they land, and changes published."""
