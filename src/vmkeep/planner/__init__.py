"""Decide, without I/O: how a VM is brought to rest, what that proves, and what would raise it.

Facts in, decision out. An unknown fact counts as the worse one; every rule
that lowered the result is a Reason, which reports quote and never guess again.
"""
