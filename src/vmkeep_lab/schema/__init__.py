"""The classes that a real host has: their properties, types, keys and methods.

``Schema.load("server2019")`` reads what ``tools/make_lab_schema.py`` cut from the contract; ``keys.py``
adds what the contract cannot know. Names are found without case. What a host does not have is refused the
way a host refuses it: with WmiError.
"""

from vmkeep_lab.schema.classes import CimClass, CimMethod, CimParameter, CimType, Schema

__all__ = ["CimClass", "CimMethod", "CimParameter", "CimType", "Schema"]
