"""`vmkeep demo`: the main job on embedded data, judged by checksums taken before."""

from vmkeep.cli.frame import AsJson


def demo(as_json: AsJson = False) -> None:
    """Show the main job."""
