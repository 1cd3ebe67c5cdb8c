"""What ``winrm set`` can change, with the values of a fresh host since 2012 R2."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Limits and switches of the service ([MS-WSMV] 3.1.1, 2.2.4.10 and the recorded ``winrm get``)."""

    max_envelope_size_kb: int = 500
    max_timeout_ms: int = 60_000
    max_batch_items: int = 32_000
    max_concurrent_operations_per_user: int = 1_500
    enumeration_timeout_ms: int = 240_000
    max_connections: int = 300
    max_packet_retrieval_time_s: float = 120.0
    max_shells_per_user: int = 30
    max_concurrent_users: int = 10
    shell_idle_timeout_ms: int = 7_200_000
    # How long http.sys keeps an idle connection: its documented default.
    idle_connection_s: float = 120.0
    allow_unencrypted: bool = False
    auth_negotiate: bool = True
    auth_kerberos: bool = True  # offered also by a host without a domain, which refuses every ticket
    auth_basic: bool = False

    @property
    def max_envelope_bytes(self) -> int:
        """The largest envelope, in either direction."""
        return self.max_envelope_size_kb * 1024
