"""Runs a command as on a kernel without Landlock: a seccomp filter answers its three system calls with ENOSYS."""
import ctypes
import os
import struct
import sys

NO_NEW_PRIVS, SECCOMP, FILTER = 38, 22, 2
ENOSYS, ERRNO, ALLOW = 38, 0x00050000, 0x7FFF0000
FIRST, LAST = 444, 446  # landlock_create_ruleset to landlock_restrict_self, the same on every architecture

libc = ctypes.CDLL(None, use_errno=True)


def instruction(code, yes, no, k):
    return struct.pack("HBBI", code, yes, no, k)


program = b"".join(
    [
        instruction(0x20, 0, 0, 0),  # the number of the call
        instruction(0x35, 0, 2, FIRST),  # at least; else allow
        instruction(0x25, 1, 0, LAST),  # more: allow
        instruction(0x06, 0, 0, ERRNO | ENOSYS),
        instruction(0x06, 0, 0, ALLOW),
    ]
)
buffer = ctypes.create_string_buffer(program)
whole = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
# Root may do it as it is; who is not has to give up new privileges first.
if libc.prctl(SECCOMP, FILTER, whole) != 0:
    libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.prctl(SECCOMP, FILTER, whole) != 0:
        sys.exit("seccomp: " + os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[1], sys.argv[1:])
