"""One run, as plain code: facts, plan, hold, write, check, publish, seal, release.

The way of the data goes one direction; no room below calls back up here.
"""
