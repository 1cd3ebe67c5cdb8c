"""The shared words of vmkeep as frozen data, without behaviour beyond predicates.

Nothing here reads, writes, or asks the time; rooms exchange these values.
"""
