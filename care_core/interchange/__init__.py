"""Encoders from elsewhere, and encoders for elsewhere: files that others write and read."""
