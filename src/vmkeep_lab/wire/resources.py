"""WS-Transfer on instances, and the methods of classes ([MS-WSMV] 3.1.4.2 to 3.1.4.6, 4.1.4)."""

from vmkeep_lab.cim import WBEM_E_INVALID_METHOD_PARAMETERS, Ref, WmiError
from vmkeep_lab.schema import CimClass
from vmkeep_lab.schema.keys import SINGLETONS, STATIC_METHODS
from vmkeep_lab.wire.addresses import Target
from vmkeep_lab.wire.faults import (
    ACTION_MISMATCH,
    ACTION_NOT_SUPPORTED,
    DUPLICATE_SELECTORS,
    FRAGMENT_ACCESS,
    INSUFFICIENT_SELECTORS,
    INTERNAL_ERROR,
    UNEXPECTED_SELECTORS,
    URI_WITHOUT_KEYS,
    Provenance,
    SoapFault,
    WmiFault,
)
from vmkeep_lab.wire.names import CREATE, DELETE, GET, PUT, WMI
from vmkeep_lab.wire.provider import Provider
from vmkeep_lab.wire.queries import Queries, reference_to
from vmkeep_lab.wire.soap import Reply, Request
from vmkeep_lab.wire.values import Values

TRANSFERS = frozenset({GET, PUT, CREATE, DELETE})


class Resources:
    """The instances and methods of one provider. Safe to use from several threads."""

    def __init__(self, provider: Provider, values: Values) -> None:
        self._provider = provider
        self._values = values
        self._queries = Queries(provider)

    def transfer(self, request: Request) -> Reply:
        """Answer Get, Put, Create or Delete."""
        if request.fragment:
            raise SoapFault(FRAGMENT_ACCESS, "Fragments are not served.")
        kind = self._kind(request)
        if request.action == CREATE:
            made = self._provider.create(
                self._values.read_properties(kind, request.resource_uri, request.body)
            )
            address = self._values.addresses.endpoint(made)
            inside = address.removeprefix("<a:EndpointReference>").removesuffix("</a:EndpointReference>")
            return Reply(f"{CREATE}Response", f"<x:ResourceCreated>{inside}</x:ResourceCreated>", "transfer")
        ref = self._whole_reference(kind, request)
        try:
            found = self._queries.one(kind, ref)
        except WmiError as error:
            raise WmiFault(error, Provenance(kind.namespace, "GetObject", ref.path())) from error
        actual = self._provider.schema.find(found.namespace, found.class_name)
        if request.action == DELETE:
            self._provider.delete(reference_to(actual, found))
            return Reply(f"{DELETE}Response", "", "transfer")
        if request.action == PUT:
            changed = self._values.read_properties(kind, request.resource_uri, request.body)
            for name in actual.keys:
                changed.values[name] = found.values.get(name)
            changed.class_name = actual.name
            self._provider.put(changed)
            found = self._queries.one(kind, ref)
        return Reply(f"{request.action}Response", self._values.instance(found), "transfer")

    def _kind(self, request: Request) -> CimClass:
        target = self._target(request)
        if target.kind is None:
            raise SoapFault(URI_WITHOUT_KEYS, "The resource URI names no instance.")
        names = [name.lower() for name, _ in request.selectors if name.lower() != "__cimnamespace"]
        if len(set(names)) != len(names):
            raise SoapFault(DUPLICATE_SELECTORS, "A selector is given twice.")
        keys = {name.lower() for name in target.kind.keys}
        if not set(names) <= keys:
            raise SoapFault(UNEXPECTED_SELECTORS, "A selector is no key of the class.")
        return target.kind

    def _target(self, request: Request) -> Target:
        target = self._values.addresses.target(request.resource_uri)
        for name, value in request.selectors:
            if name.lower() == "__cimnamespace" and str(value).lower() != target.namespace:
                # Accepted only if equal to the URI's ([MS-WSMV] n. 45).
                raise SoapFault(
                    INTERNAL_ERROR, "The namespace of the selectors is not that of the resource URI."
                )
        return target

    def _whole_reference(self, kind: CimClass, request: Request) -> Ref:
        ref = self._values.addresses.reference(kind, request.selectors)
        if {name for name, _ in ref.keys} == set(kind.keys) or kind.name in SINGLETONS:
            return ref
        if not ref.keys:
            raise SoapFault(URI_WITHOUT_KEYS, "The class has keys, and the request gives none.")
        raise SoapFault(INSUFFICIENT_SELECTORS, "A key of the class is missing among the selectors.")

    def invoke(self, request: Request) -> Reply:
        """Call a method."""
        uri, _, name = request.action.rpartition("/")
        if not uri.lower().startswith(WMI):
            raise SoapFault(ACTION_NOT_SUPPORTED, "The action is not supported by the service.")
        if uri.lower() != request.resource_uri.lower():
            raise SoapFault(ACTION_MISMATCH, "The action does not belong to the resource URI.")
        kind = self._kind(request)
        provenance = Provenance(kind.namespace, "ExecMethod", f"{kind.name}.{name}")
        try:
            method = kind.method(name)
            arguments = self._values.arguments(kind, method, request.resource_uri, request.body)
            result = self._provider.invoke(self._invoked(kind, method.name, request), method.name, arguments)
        except WmiError as error:
            raise WmiFault(error, provenance) from error
        output = self._values.output(method, request.resource_uri, result)
        return Reply(f"{request.action}Response", output, "invoke")

    def _invoked(self, kind: CimClass, method: str, request: Request) -> Ref:
        """Return the instance whose method is called; some of its keys are enough."""
        if any((each.name, method) in STATIC_METHODS for each in kind.lineage):
            return Ref(kind.name, (), kind.namespace)
        ref = self._values.addresses.reference(kind, request.selectors)
        if not ref.keys and kind.name not in SINGLETONS:
            # What go-wsman's author saw of a real host when the selector was left out.
            raise WmiError(WBEM_E_INVALID_METHOD_PARAMETERS, "Invalid method Parameter(s)")
        found = self._queries.one(kind, ref)
        return reference_to(self._provider.schema.find(found.namespace, found.class_name), found)
