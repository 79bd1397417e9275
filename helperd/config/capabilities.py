"""The names of Linux capabilities and their numbers, lower case and without prefix.

Source of fact: linux/capability.h of Linux 6.12; numbers never change, new ones are only added at the end.
The table is
our own because python-prctl and libcap know only the names of the day they were built.
"""

from __future__ import annotations

_NAMES = """
chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service
net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct
sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control
setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore
"""

CAPABILITIES: dict[str, int] = {name: number for number, name in enumerate(_NAMES.split())}
