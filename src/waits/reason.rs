//! What a thread waits for, by the functions of the kernel that it waits in. The kernel's functions call each other as their last
//! act, so the system call's own function is often not in the chain; the table has what is there instead.

use std::sync::Arc;

pub(crate) use crate::event::Reason;

impl Reason {
    /// The same of this system call, as far as its first two arguments are known: who waits for any of no descriptors waits for time
    /// to pass.
    pub(super) fn of_descriptors(
        self,
        call: &str,
        first: Option<u64>,
        second: Option<u64>,
    ) -> Reason {
        match (self, call) {
            (Reason::Poll, "select" | "_newselect" | "pselect6") if first == Some(0) => {
                Reason::Sleep
            }
            (Reason::Poll, "poll" | "ppoll") if second == Some(0) => Reason::Sleep,
            (reason, _) => reason,
        }
    }
}

/// What a function of the kernel says about a thread that waits in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meaning {
    /// What it waits for.
    Waits(Reason),
    /// The system call that it is in.
    Call(Arc<str>),
    /// The same, by a function that several system calls share, and what it waits for.
    Shared(&'static str, Option<Reason>),
    /// An access to memory.
    Fault,
}

/// Functions by name: the system call, if they tell one, and the reason.
const NAMED: [(&str, &str, Option<Reason>); 79] = {
    use Reason::{Child, Disk, Lock, Network, Other, Pipe, Poll, Sleep};
    [
        ("io_schedule", "", Some(Disk)),
        ("io_schedule_timeout", "", Some(Disk)),
        ("wait_on_page_bit", "", Some(Disk)),
        ("wait_on_page_bit_common", "", Some(Disk)),
        ("folio_wait_bit", "", Some(Disk)),
        ("folio_wait_bit_common", "", Some(Disk)),
        ("__wait_on_buffer", "", Some(Disk)),
        ("submit_bio_wait", "", Some(Disk)),
        ("balance_dirty_pages", "", Some(Disk)),
        ("wb_wait_for_completion", "", Some(Disk)),
        ("vfs_fsync_range", "fsync", Some(Disk)),
        ("do_fsync", "fsync", Some(Disk)),
        ("ksys_sync", "sync", Some(Disk)),
        ("sync_filesystem", "syncfs", Some(Disk)),
        // A server of FUSE waits for what it is to do.
        ("fuse_dev_do_read", "", Some(Other)),
        ("pipe_read", "", Some(Pipe)),
        ("pipe_write", "", Some(Pipe)),
        ("anon_pipe_read", "", Some(Pipe)),
        ("anon_pipe_write", "", Some(Pipe)),
        ("fifo_pipe_read", "", Some(Pipe)),
        ("fifo_pipe_write", "", Some(Pipe)),
        ("pipe_wait", "", Some(Pipe)),
        ("pipe_wait_readable", "", Some(Pipe)),
        ("pipe_wait_writable", "", Some(Pipe)),
        ("wait_for_partner", "", Some(Pipe)),
        ("fifo_open", "", Some(Pipe)),
        ("sk_wait_data", "", Some(Network)),
        ("sk_stream_wait_memory", "", Some(Network)),
        ("sk_stream_wait_connect", "", Some(Network)),
        ("__skb_recv_datagram", "", Some(Network)),
        ("__skb_wait_for_more_packets", "", Some(Network)),
        ("__sys_recvfrom", "recvfrom", Some(Network)),
        ("__sys_sendto", "sendto", Some(Network)),
        ("__sys_recvmsg", "recvmsg", Some(Network)),
        ("___sys_recvmsg", "recvmsg", Some(Network)),
        ("__sys_recvmmsg", "recvmmsg", Some(Network)),
        ("__sys_sendmsg", "sendmsg", Some(Network)),
        ("___sys_sendmsg", "sendmsg", Some(Network)),
        ("__sys_sendmmsg", "sendmmsg", Some(Network)),
        ("__sys_accept4", "accept4", Some(Network)),
        ("__sys_connect", "connect", Some(Network)),
        ("do_futex", "futex", Some(Lock)),
        ("locks_lock_inode_wait", "", Some(Lock)),
        ("flock_lock_inode_wait", "flock", Some(Lock)),
        ("posix_lock_inode_wait", "fcntl", Some(Lock)),
        ("fcntl_setlk", "fcntl", Some(Lock)),
        ("do_semtimedop", "semtimedop", Some(Lock)),
        ("__do_semtimedop", "semtimedop", Some(Lock)),
        ("do_nanosleep", "", Some(Sleep)),
        ("hrtimer_nanosleep", "clock_nanosleep", Some(Sleep)),
        ("common_nsleep", "clock_nanosleep", Some(Sleep)),
        ("common_nsleep_timens", "clock_nanosleep", Some(Sleep)),
        ("alarm_timer_nsleep", "clock_nanosleep", Some(Sleep)),
        ("do_wait", "", Some(Child)),
        ("kernel_wait4", "wait4", Some(Child)),
        ("kernel_waitid", "waitid", Some(Child)),
        ("wait_for_vfork_done", "", Some(Child)),
        // What is waited for while a child is being made is not that child; then its maker may wait for it to go its own way.
        ("copy_process", "", Some(Other)),
        ("kernel_clone", "clone", Some(Child)),
        ("_do_fork", "clone", Some(Child)),
        ("do_epoll_wait", "epoll_wait", Some(Poll)),
        ("ep_poll", "epoll_wait", Some(Poll)),
        ("do_sys_poll", "poll", Some(Poll)),
        ("do_poll", "poll", Some(Poll)),
        ("do_select", "select", Some(Poll)),
        ("core_sys_select", "select", Some(Poll)),
        ("kern_select", "select", Some(Poll)),
        ("do_pselect", "pselect6", Some(Poll)),
        ("ksys_read", "read", None),
        ("ksys_write", "write", None),
        ("ksys_pread64", "pread64", None),
        ("ksys_pwrite64", "pwrite64", None),
        ("do_readv", "readv", None),
        ("do_writev", "writev", None),
        ("do_preadv", "preadv", None),
        ("do_pwritev", "pwritev", None),
        ("do_sendfile", "sendfile", None),
        ("do_sys_openat2", "openat", None),
        ("iterate_dir", "getdents64", None),
    ]
};

/// Functions by how their names begin: file systems and block devices, families of sockets, futexes.
const BEGINNING: [(&str, Reason); 31] = [
    ("blk_", Reason::Disk),
    ("bio_", Reason::Disk),
    ("iomap_", Reason::Disk),
    ("__iomap_", Reason::Disk),
    ("jbd2_", Reason::Disk),
    ("ext4_", Reason::Disk),
    ("xfs_", Reason::Disk),
    ("btrfs_", Reason::Disk),
    ("f2fs_", Reason::Disk),
    ("ovl_", Reason::Disk),
    ("nfs_", Reason::Disk),
    ("nfs4_", Reason::Disk),
    ("p9_", Reason::Disk),
    ("v9fs_", Reason::Disk),
    ("fuse_", Reason::Disk),
    ("cifs_", Reason::Disk),
    ("smb2_", Reason::Disk),
    ("ceph_", Reason::Disk),
    ("netfs_", Reason::Disk),
    ("tcp_", Reason::Network),
    ("inet_", Reason::Network),
    ("inet6_", Reason::Network),
    ("unix_", Reason::Network),
    ("udp_", Reason::Network),
    ("udpv6_", Reason::Network),
    ("netlink_", Reason::Network),
    ("vsock_", Reason::Network),
    ("packet_", Reason::Network),
    ("sock_", Reason::Network),
    ("futex_", Reason::Lock),
    ("__futex_", Reason::Lock),
];

/// Where an access to memory enters the kernel.
const FAULTS: [&str; 8] = [
    "exc_page_fault",
    "asm_exc_page_fault",
    "do_user_addr_fault",
    "do_page_fault",
    "__do_page_fault",
    "do_mem_abort",
    "do_translation_fault",
    "el0_da",
];

/// Functions that are a system call's own: how their names begin.
const OWN: [&str; 8] = [
    "__x64_sys_",
    "__arm64_sys_",
    "__ia32_sys_",
    "__se_sys_",
    "__do_sys_",
    "__riscv_sys_",
    "SyS_",
    "sys_",
];

impl Meaning {
    /// That of a function of the kernel; `None` where it says nothing.
    pub(super) fn of(function: &str) -> Option<Meaning> {
        // What the compiler makes of one function: `pipe_read.part.0`.
        let name = function.split('.').next().unwrap_or(function);
        if let Some(call) = OWN.iter().find_map(|own| name.strip_prefix(own)) {
            return Some(Meaning::Call(call.into()));
        }
        if FAULTS.contains(&name) {
            return Some(Meaning::Fault);
        }
        if let Some((_, call, reason)) = NAMED.iter().find(|(known, ..)| *known == name) {
            return match (*call, *reason) {
                ("", reason) => reason.map(Meaning::Waits),
                (call, reason) => Some(Meaning::Shared(call, reason)),
            };
        }
        let begins = BEGINNING.iter().find(|(known, _)| name.starts_with(known));
        begins.map(|(_, reason)| Meaning::Waits(*reason))
    }
}

/// What a call chain says: why the thread waits, and in which system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meant {
    pub(super) reason: Reason,
    /// `None` outside system calls, and where the chain does not say.
    pub(super) call: Option<Arc<str>>,
}

/// What a chain of functions means, the innermost first.
pub(super) fn meant<'a>(chain: impl Iterator<Item = &'a Meaning>) -> Meant {
    let (mut reason, mut own, mut shared) = (None, None, None);
    let mut fault = false;
    for meaning in chain {
        match meaning {
            // What is waited for on behalf of an access to memory is that access, in a system call, too.
            Meaning::Fault => fault = true,
            Meaning::Waits(waits) => {
                reason.get_or_insert(*waits);
            }
            Meaning::Shared(call, waits) => {
                // Functions of others call each other; the system call is the outermost.
                shared = Some(*call);
                reason = reason.or(*waits);
            }
            Meaning::Call(call) => own = Some(Arc::clone(call)),
        }
    }
    Meant {
        reason: match fault {
            true => Reason::PageFault,
            false => reason.unwrap_or(Reason::Other),
        },
        call: own.or_else(|| shared.map(Arc::from)),
    }
}

/// What a system call usually waits for, where the kernel's functions have no names for us.
pub(super) fn of_call(call: &str) -> Reason {
    match call {
        "futex" | "futex_wait" | "flock" | "semtimedop" | "semop" => Reason::Lock,
        "nanosleep" | "clock_nanosleep" => Reason::Sleep,
        "wait4" | "waitid" | "vfork" => Reason::Child,
        "poll" | "ppoll" | "select" | "pselect6" | "epoll_wait" | "epoll_pwait"
        | "epoll_pwait2" => Reason::Poll,
        "recvfrom" | "recvmsg" | "recvmmsg" | "sendto" | "sendmsg" | "sendmmsg" | "accept"
        | "accept4" | "connect" => Reason::Network,
        "fsync" | "fdatasync" | "sync" | "syncfs" | "pread64" | "preadv" | "preadv2"
        | "pwrite64" | "pwritev" | "pwritev2" => Reason::Disk,
        _ => Reason::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a chain means, given the names of its functions.
    fn of(chain: &str) -> (Reason, Option<String>) {
        let meanings: Vec<Meaning> = chain.split(' ').filter_map(Meaning::of).collect();
        let meant = meant(meanings.iter());
        (meant.reason, meant.call.map(|call| call.to_string()))
    }

    #[test]
    fn chains_of_real_kernels_have_the_reason_and_the_call_of_their_program() {
        for (chain, reason, call) in [
            (
                "__schedule schedule do_nanosleep hrtimer_nanosleep common_nsleep __x64_sys_clock_nanosleep do_syscall_64",
                Reason::Sleep,
                Some("clock_nanosleep"),
            ),
            // The system call's own function has called the next one as its last act.
            (
                "__schedule schedule io_schedule blkdev_direct_IO vfs_readv do_preadv do_syscall_64",
                Reason::Disk,
                Some("preadv"),
            ),
            (
                "__schedule schedule do_wait kernel_wait4 do_syscall_64",
                Reason::Child,
                Some("wait4"),
            ),
            (
                "__schedule schedule futex_wait_queue __futex_wait futex_wait do_futex __x64_sys_futex do_syscall_64",
                Reason::Lock,
                Some("futex"),
            ),
            (
                "__schedule schedule schedule_timeout wait_woken sk_wait_data tcp_recvmsg_locked tcp_recvmsg inet_recvmsg sock_recvmsg __sys_recvfrom __x64_sys_recvfrom do_syscall_64",
                Reason::Network,
                Some("recvfrom"),
            ),
            (
                "__schedule schedule anon_pipe_read vfs_read ksys_read do_syscall_64",
                Reason::Pipe,
                Some("read"),
            ),
            (
                "__schedule schedule schedule_hrtimeout_range_clock ep_poll do_epoll_wait __x64_sys_epoll_wait do_syscall_64",
                Reason::Poll,
                Some("epoll_wait"),
            ),
            (
                "__schedule schedule io_schedule folio_wait_bit_common filemap_fault __do_fault handle_mm_fault do_user_addr_fault exc_page_fault asm_exc_page_fault",
                Reason::PageFault,
                None,
            ),
            (
                "__schedule schedule schedule_timeout __wait_for_common wait_for_vfork_done kernel_clone __x64_sys_vfork do_syscall_64",
                Reason::Child,
                Some("vfork"),
            ),
            (
                "__schedule schedule schedule_timeout wait_for_completion_state kernel_clone __do_sys_vfork do_syscall_64",
                Reason::Child,
                Some("vfork"),
            ),
            (
                "__schedule schedule rwsem_down_write_slowpath copy_process kernel_clone __do_sys_clone do_syscall_64",
                Reason::Other,
                Some("clone"),
            ),
            (
                "__schedule schedule jbd2_log_wait_commit ext4_sync_file.part.0 do_fsync __x64_sys_fdatasync",
                Reason::Disk,
                Some("fdatasync"),
            ),
            (
                "__schedule schedule eventfd_read vfs_read ksys_read",
                Reason::Other,
                Some("read"),
            ),
            ("", Reason::Other, None),
        ] {
            assert_eq!(of(chain), (reason, call.map(str::to_owned)), "{chain}");
        }
    }

    #[test]
    fn no_name_stands_in_the_table_twice() {
        let mut names: Vec<&str> = NAMED.iter().map(|(name, ..)| *name).collect();
        names.sort_unstable();
        let before = names.len();
        names.dedup();
        assert_eq!(names.len(), before);
    }
}
