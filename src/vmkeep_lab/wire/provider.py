"""What the wire asks of a host: the protocol that the host model fulfils."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from vmkeep_lab.cim import Arguments, CimValue, CommandResult, Instance, Ref
from vmkeep_lab.schema import Schema


class Provider(Protocol):
    """A host's management objects.

    The wire calls from several threads at once, and reads the instances it was given some time later: they
    must not change any more. Class, property, key and parameter names arrive as the schema spells them,
    values as the client sent them. A refusal is a WmiError, which becomes a SOAP fault; any other exception
    becomes an internal error of the host.
    """

    @property
    def schema(self) -> Schema:
        """The classes that the host has."""

    @property
    def locale(self) -> str:
        """The language of the host, as every reply's xml:lang: ``ja-JP``."""

    def instances(self, namespace: str, class_name: str) -> Iterable[Instance]:
        """Yield the instances of a class and of all that descend from it, as they are now."""

    def invoke(self, target: Ref, method: str, arguments: Arguments) -> Mapping[str, CimValue]:
        """Call a method of an instance that exists; return the out parameters and ReturnValue.

        Arguments have the types of the schema: an embedded instance arrives as Instance, and goes back as
        one. Parameters that the client left out or sent as null are not among them.
        """

    def put(self, instance: Instance) -> None:
        """Change an instance: the key properties say which, the others are the new values."""

    def create(self, instance: Instance) -> Ref:
        """Make an instance."""

    def delete(self, ref: Ref) -> None:
        """Delete an instance."""

    def run_command(self, command: str, arguments: Sequence[str]) -> CommandResult:
        """Run a command of a remote shell and return when it has ended."""


@runtime_checkable
class FindsInstances(Protocol):
    """A provider that finds one instance faster than by reading all of its class."""

    def get(self, ref: Ref) -> Instance | None:
        """Return the instance whose keys match without case, or None; missing keys match any."""
