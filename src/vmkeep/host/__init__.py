"""Talk to one Hyper-V host: its WS-Management, its files, its typed WMI, its VSS.

The rooms inside are separate on purpose: `wsman` and `files` know no VMs, and
nothing in here knows repositories.
"""
