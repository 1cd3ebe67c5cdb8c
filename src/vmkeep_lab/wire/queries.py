"""Answer queries from a provider's instances: SELECT, ASSOCIATORS OF, REFERENCES OF, one instance."""

from collections.abc import Iterator
from dataclasses import dataclass

from vmkeep_lab.cim import WBEM_E_INVALID_QUERY, WBEM_E_NOT_FOUND, Instance, Ref, WmiError
from vmkeep_lab.schema import CimClass, Schema
from vmkeep_lab.wire import wql
from vmkeep_lab.wire.addresses import Addresses
from vmkeep_lab.wire.faults import AMBIGUOUS_SELECTORS, SoapFault
from vmkeep_lab.wire.provider import FindsInstances, Provider


@dataclass(frozen=True)
class Association:
    """What an association query asks: an object, and which associations and results it means."""

    source: Ref
    references: bool = False
    association_class: str = ""
    result_class: str = ""
    role: str = ""
    result_role: str = ""


def key_text(value: object) -> str:
    """Return a key's value as selectors carry it."""
    if isinstance(value, Ref):
        return value.path()
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def reference_to(kind: CimClass, instance: Instance) -> Ref:
    """Return the reference to an instance; ValueError where a key has no value."""
    keys: list[tuple[str, str]] = []
    for name in kind.keys:
        value = instance.values.get(name)
        if value is None:
            raise ValueError(f"an instance of {kind.name} has no {name}")
        keys.append((name, key_text(value)))
    return Ref(kind.name, tuple(sorted(keys)), kind.namespace)


class Queries:
    """Finds instances of one provider."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._addresses = Addresses(provider.schema)

    @property
    def schema(self) -> Schema:
        """The classes of the host."""
        return self._provider.schema

    def one(self, kind: CimClass, ref: Ref) -> Instance:
        """Return the only instance of that class whose keys match; missing keys match any."""
        if isinstance(self._provider, FindsInstances) and {name for name, _ in ref.keys} >= set(kind.keys):
            found = [each for each in [self._provider.get(ref)] if each is not None]
        else:
            wanted = ref.folded().keys
            found = [
                each
                for each in self._provider.instances(kind.namespace, kind.name)
                if set(wanted) <= set(self._folded_keys(each, ref))
            ]
        if not found:
            raise WmiError(WBEM_E_NOT_FOUND, "Not found")
        if len(found) > 1:
            raise SoapFault(
                AMBIGUOUS_SELECTORS, "The selectors are ambiguous: more than one instance matches."
            )
        return found[0]

    def _folded_keys(self, instance: Instance, ref: Ref) -> Iterator[tuple[str, str]]:
        for name, _ in ref.keys:
            value = instance.values.get(name)
            if value is not None:
                yield name.lower(), key_text(value).lower()

    def select(self, namespace: str, query: wql.Select) -> tuple[list[Instance], tuple[str, ...]]:
        """Return the instances a SELECT means, and the properties it asks for: none means all."""
        try:
            kind = self.schema.find(namespace, query.class_name)
        except WmiError as error:
            raise WmiError(WBEM_E_INVALID_QUERY, error.message) from error
        wql.check(query.condition, kind)
        names = []
        for name in query.names:
            if name.startswith("__"):
                continue
            spelled = kind.property_name(name)
            if spelled is None:
                raise WmiError(WBEM_E_INVALID_QUERY, f"{kind.name} has no property {name}")
            names.append(spelled)
        found = [
            each
            for each in self._provider.instances(namespace, kind.name)
            if wql.holds(query.condition, self.schema.find(each.namespace, each.class_name), each)
        ]
        return found, tuple(names)

    def about(self, namespace: str, query: wql.About) -> list[Instance]:
        """Return the instances that ASSOCIATORS OF or REFERENCES OF means."""
        terms = query.terms
        if "classdefsonly" in terms or "schemaonly" in terms:
            raise WmiError(WBEM_E_INVALID_QUERY, "class definitions are not served")
        return self.associated(
            Association(
                self._addresses.spelled(Ref.from_path(query.path, namespace)),
                query.references,
                terms.get("assocclass", ""),
                terms.get("resultclass", ""),
                terms.get("role", ""),
                terms.get("resultrole", ""),
            )
        )

    def associated(self, asked: Association) -> list[Instance]:
        """Return what is associated with an object, or the associations themselves."""
        source_kind = self.schema.find(asked.source.namespace, asked.source.class_name)
        source = self.one(source_kind, asked.source)
        actual = self.schema.find(source.namespace, source.class_name)
        source_ref = reference_to(actual, source).folded()
        found: dict[Ref, Instance] = {}
        for association, near in self._associations(asked, actual, source_ref):
            kind = self.schema.find(association.namespace, association.class_name)
            if asked.references:
                if not asked.result_class or kind.is_a(asked.result_class):
                    found.setdefault(reference_to(kind, association).folded(), association)
                continue
            for name, value in association.values.items():
                if name == near or not isinstance(value, Ref):
                    continue
                if asked.result_role and name.lower() != asked.result_role.lower():
                    continue
                if (other := self._other(value, asked.result_class)) is not None:
                    found.setdefault(value.folded(), other)
        return list(found.values())

    def _associations(
        self, asked: Association, actual: CimClass, source: Ref
    ) -> Iterator[tuple[Instance, str]]:
        """Yield each association that joins the source, with the property that refers to it."""
        namespace = actual.namespace
        # Of references, the result is the association itself.
        wanted = asked.association_class or (asked.result_class if asked.references else "")
        if wanted:
            roots = [self.schema.find(namespace, wanted)]
        else:
            roots = [
                each
                for each in self.schema.classes(namespace)
                if _is_association(each) and not (each.parent and _is_association(each.parent))
            ]
        for root in roots:
            for association in self._provider.instances(namespace, root.name):
                for name, value in association.values.items():
                    if asked.role and name.lower() != asked.role.lower():
                        continue
                    if isinstance(value, Ref) and self._is_source(value.folded(), actual, source):
                        yield association, name
                        break

    def _is_source(self, ref: Ref, actual: CimClass, source: Ref) -> bool:
        return ref.keys == source.keys and ref.namespace == source.namespace and actual.is_a(ref.class_name)

    def _other(self, ref: Ref, result_class: str) -> Instance | None:
        """Return what an association leads to, or None where that does not exist or is not meant."""
        try:
            found = self.one(self.schema.find(ref.namespace, ref.class_name), ref)
        except WmiError as error:
            if error.code == WBEM_E_NOT_FOUND:
                return None
            raise
        kind = self.schema.find(found.namespace, found.class_name)
        return found if not result_class or kind.is_a(result_class) else None


def _is_association(kind: CimClass) -> bool:
    return sum(each.name == "reference" and not each.is_array for each in kind.properties.values()) > 1
