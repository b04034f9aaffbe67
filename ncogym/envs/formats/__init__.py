"""Readers and writers of instance files: numpy in, numpy out, with every malformed file refused in one line."""
