"""Describes which protections of the sandbox are active."""

from __future__ import annotations

from collections.abc import Set

from runner.sandbox.sandbox import SandboxLimits


def describe_sandbox_protections(active_protections: Set[str], limits: SandboxLimits) -> tuple[str, str]:
    """Return two texts: one on the active protections, and one on the missing protections (may be empty)."""
    clauses = [
        "a separate process without environment variables, in an empty folder",
        f"{limits.seconds:g} s by the clock",
    ]
    missing: list[str] = []
    for name, limit_text in (
        ("cpu", f"{limits.cpu_s} s of CPU time"),
        ("as", f"{limits.memory_mib} MiB of memory"),
        ("fsize", f"{limits.file_kib} KiB a file"),
    ):
        (clauses if name in active_protections else missing).append(
            limit_text if name in active_protections else f"no limit of {limit_text}"
        )
    by_path = (
        ("seccomp", "all file access, including checks whether a file exists")
        if "paths" in active_protections
        else ("landlock", "files elsewhere")
    )
    for name, what in (by_path, ("seccomp", "network, processes, signals and other system calls")):
        if name in active_protections:
            clauses.append(f"{what}: blocked by the kernel ({name})")
        else:
            missing.append(f"{what}: blocked only in Python, so malicious code can circumvent the block")
    if "paths" not in active_protections:
        missing.append("code can find out whether a file exists")
    if (
        "nproc" in active_protections
        and "powerless" in active_protections
        and "seccomp" not in active_protections
    ):
        missing.append("the number of processes is not limited, because the user is root")
    if "nobody" in active_protections:
        clauses.append("as user nobody")
    if "powerless" in active_protections:
        clauses.append("as root without its powers")
    return "; ".join(clauses), "; ".join(missing)
