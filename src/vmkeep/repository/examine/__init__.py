"""Is every restore point whole, and every byte as it was written? Two examinations and one report.

``keyed`` proves everything, ``keyless`` finds what anybody can find who stores
the repository; ``presence`` and ``wholeness`` are what they look at, ``report``
is what they say. Changes nothing, and knows nothing of who wants to know.
"""
