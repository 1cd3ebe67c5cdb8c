"""Talk to one Hyper-V host; each part is a room of its own: its wire, its files, its WMI, its VSS."""
