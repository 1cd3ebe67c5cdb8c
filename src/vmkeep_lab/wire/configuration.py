"""The service's own configuration, which clients read to learn the largest envelope."""

from vmkeep_lab.wire.faults import ACTION_NOT_SUPPORTED, FILTERING_NOT_SUPPORTED, SoapFault
from vmkeep_lab.wire.names import CONFIG, ENUMERATE, GET
from vmkeep_lab.wire.settings import Settings
from vmkeep_lab.wire.soap import Reply, Request


def configuration(request: Request, settings: Settings) -> Reply:
    """Answer Get of the configuration ([MS-WSMV] 2.2.4.10); it cannot be changed from outside."""
    if request.action == ENUMERATE:
        raise SoapFault(FILTERING_NOT_SUPPORTED, "The configuration is read with Get.")
    if request.action != GET:
        raise SoapFault(ACTION_NOT_SUPPORTED, "The action is not supported by the service.")
    service = (
        ("MaxConcurrentOperationsPerUser", str(settings.max_concurrent_operations_per_user)),
        ("EnumerationTimeoutms", str(settings.enumeration_timeout_ms)),
        ("MaxConnections", str(settings.max_connections)),
        ("MaxPacketRetrievalTimeSeconds", str(int(settings.max_packet_retrieval_time_s))),
        ("AllowUnencrypted", str(settings.allow_unencrypted).lower()),
    )
    auth = (
        ("Basic", settings.auth_basic),
        ("Kerberos", settings.auth_kerberos),
        ("Negotiate", settings.auth_negotiate),
    )
    winrs = (
        ("AllowRemoteShellAccess", "true"),
        ("IdleTimeout", str(settings.shell_idle_timeout_ms)),
        ("MaxConcurrentUsers", str(settings.max_concurrent_users)),
        ("MaxShellsPerUser", str(settings.max_shells_per_user)),
    )
    told_auth = "".join(f"<cfg:{name}>{str(on).lower()}</cfg:{name}>" for name, on in auth)
    body = (
        f'<cfg:Config xmlns:cfg="{CONFIG}"><cfg:MaxEnvelopeSizekb>{settings.max_envelope_size_kb}'
        f"</cfg:MaxEnvelopeSizekb><cfg:MaxTimeoutms>{settings.max_timeout_ms}</cfg:MaxTimeoutms>"
        f"<cfg:MaxBatchItems>{settings.max_batch_items}</cfg:MaxBatchItems>"
        f"<cfg:Service>{_elements(service)}<cfg:Auth>{told_auth}</cfg:Auth></cfg:Service>"
        f"<cfg:Winrs>{_elements(winrs)}</cfg:Winrs></cfg:Config>"
    )
    return Reply(f"{GET}Response", body, "transfer")


def _elements(rows: tuple[tuple[str, str], ...]) -> str:
    return "".join(f"<cfg:{name}>{text}</cfg:{name}>" for name, text in rows)
