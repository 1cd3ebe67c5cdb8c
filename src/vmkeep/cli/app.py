"""All commands under one name."""

from typing import Annotated

import typer

from vmkeep import __version__
from vmkeep.cli import backup, demo, disk, disk_map, hosts, lab, points, repo, restore, sweep
from vmkeep.cli.frame import EPILOG

app = typer.Typer(
    name="vmkeep",
    help="Back up and restore Hyper-V virtual machines, with nothing installed on the host.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.command("backup")(backup.backup)
app.command("sweep")(sweep.sweep)
app.command("points")(points.points)
app.command("list", hidden=True)(points.points)
app.command("show")(points.show)
app.command("restore")(restore.restore)
app.add_typer(repo.app, name="repo")
disk.app.command("map")(disk_map.map_command)
app.add_typer(disk.app, name="disk")
app.add_typer(hosts.app, name="hosts")
app.add_typer(lab.app, name="lab")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"vmkeep {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Back up and restore Hyper-V virtual machines, with nothing installed on the host."""
