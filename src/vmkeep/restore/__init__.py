"""Bring restore points back: to disk files, to standard output.

The street of a backup in reverse: verified frames, a disk writer, a file that
gets its name only when it is complete.
"""
