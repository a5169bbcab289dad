"""The schema on the command line, one file a part."""
