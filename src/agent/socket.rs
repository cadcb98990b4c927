//! Sockets between pystap and its agents: abstract Unix sockets that preserve packet boundaries. Abstract names belong
//! to a network namespace, so every socket for a process is created in the namespace of that process.

use std::fs;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::socket::sockopt::{PeerCredentials, PeerPidfd};
use pystap_agent_protocol::{LARGEST_PACKET, SOCKET_PREFIX, THREAD_NAME};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, bind, connect, listen, recv, sendmsg, socket_with,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::Identity;

/// Prefix of the names of pystap's own sockets.
const OURS: &str = "pystap-session/";
/// Connections that may wait to be accepted, as far as `net.core.somaxconn` permits: a service may fork all its workers
/// at once, and a pystap that was stopped finds those that came meanwhile.
const BACKLOG: i32 = 4096;

/// Names of the sockets on which a process waits for pystap.
pub(super) fn of_process(pid: u32) -> io::Result<Vec<String>> {
    let table = fs::read_to_string(format!("/proc/{pid}/net/unix"))?;
    let candidates: Vec<(u64, &str)> = table.lines().filter_map(agents).collect();
    if candidates.is_empty() {
        return Ok(Vec::new());
    }
    // Older agents kept theirs in the program's own descriptor table, and must be told apart, not overlooked.
    let mut inodes = sockets(Path::new(&format!("/proc/{pid}/fd")));
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // The agent's descriptors are in a table that only its own thread has. Threads come and go.
        let thread = thread?.path();
        let name = fs::read(thread.join("comm")).unwrap_or_default();
        if name.trim_ascii_end() == THREAD_NAME.to_bytes() {
            inodes.extend(sockets(&thread.join("fd")));
        }
    }
    Ok(candidates
        .into_iter()
        .filter(|(inode, _)| inodes.contains(inode))
        .map(|(_, name)| name.to_owned())
        .collect())
}

/// Inodes of the sockets in a descriptor table.
fn sockets(table: &Path) -> Vec<u64> {
    let links = fs::read_dir(table).into_iter().flatten().flatten();
    let targets = links.filter_map(|link| fs::read_link(link.path()).ok());
    targets
        .filter_map(|target| {
            let number = target.to_str()?.strip_prefix("socket:[")?;
            number.strip_suffix(']')?.parse().ok()
        })
        .collect()
}

/// Inode and name of a socket that an agent listens on, from a line of /proc/net/unix: they come last, and the name
/// begins with `@`.
pub(super) fn agents(line: &str) -> Option<(u64, &str)> {
    let (rest, name) = line.split_once(" @")?;
    if !name.starts_with(SOCKET_PREFIX) {
        return None;
    }
    let mut fields = rest.split_whitespace();
    // The flag of a listening socket (`__SO_ACCEPTCON`); connections have the name of their listener too.
    let listens = fields.nth(3) == Some("00010000");
    let inode = fields.next_back()?.parse().ok()?;
    listens.then_some((inode, name))
}

/// A socket that agents can join in this network namespace, and its name. That ends with the number of the namespace: an agent
/// in another one, where it finds nobody, knows from it that the session may go on.
pub(super) fn listener(near: Option<u32>, network: u64) -> io::Result<(OwnedFd, String)> {
    let name = format!("{OURS}{}/{network}", random()?);
    let socket = in_network_of(near, || {
        let socket = open()?;
        bind(
            &socket,
            &SocketAddrUnix::new_abstract_name(name.as_bytes())?,
        )?;
        listen(&socket, BACKLOG)?;
        Ok(socket)
    })?;
    Ok((socket, name))
}

/// Sixteen random bytes from the kernel, as hexadecimal digits.
pub(super) fn random() -> io::Result<String> {
    let mut bytes = [0_u8; 16];
    // So few bytes come complete, or not at all.
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

/// A connection to the agent of a process.
pub(super) fn connection(pid: u32, name: &str) -> io::Result<OwnedFd> {
    in_network_of(Some(pid), || {
        let socket = open()?;
        connect(
            &socket,
            &SocketAddrUnix::new_abstract_name(name.as_bytes())?,
        )?;
        Ok(socket)
    })
}

fn open() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// The network namespace of a process; equal numbers are the same namespace.
pub(super) fn network_of(process: &str) -> io::Result<u64> {
    fs::metadata(format!("/proc/{process}/ns/net")).map(|metadata| metadata.ino())
}

/// Does something in the network namespace of a process. On a thread of its own, because a namespace is entered per
/// thread.
fn in_network_of(
    pid: Option<u32>,
    make: impl FnOnce() -> rustix::io::Result<OwnedFd> + Send,
) -> io::Result<OwnedFd> {
    let foreign = match pid {
        Some(pid) if network_of(&pid.to_string())? != network_of("self")? => {
            Some(fs::File::open(format!("/proc/{pid}/ns/net"))?)
        }
        _ => None,
    };
    let Some(namespace) = foreign else {
        return Ok(make()?);
    };
    let made = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            make()
        });
        thread.join().unwrap_or(Err(Errno::IO))
    });
    Ok(made?)
}

/// Process and user at the other end: the one that connected or, for an agent that we connected to, the one that
/// listens. 0 means a process outside our pid namespace.
pub(super) fn peer(socket: &OwnedFd) -> io::Result<(u32, u32)> {
    let peer = nix::sys::socket::getsockopt(socket, PeerCredentials)?;
    Ok((u32::try_from(peer.pid()).unwrap_or(0), peer.uid()))
}

/// The identity of the process at the other end, if it is alive; `pid` is what [`peer`] says.
pub(super) fn process(socket: &OwnedFd, pid: u32) -> Option<Identity> {
    // Before Linux 6.5 the socket is not bound to the process that connected, which may have ended and had its ID
    // reused. But the new process would have to belong to the session, and whoever holds the connection would have to
    // know a secret that fits it.
    let handle = match nix::sys::socket::getsockopt(socket, PeerPidfd) {
        Ok(handle) => handle,
        Err(nix::Error::ENOPROTOOPT) => {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
            pidfd_open(pid, PidfdFlags::empty()).ok()?
        }
        Err(_) => return None,
    };
    let identity = Identity::of(pid)?;
    // It was alive when that was read, so it was that process.
    let runs = !is_ready(&handle, PollFlags::IN);
    runs.then_some(identity)
}

/// Whether the peer is gone.
pub(super) fn has_hung_up(socket: &OwnedFd) -> bool {
    is_ready(socket, PollFlags::empty())
}

fn is_ready(file: &OwnedFd, events: PollFlags) -> bool {
    let mut files = [PollFd::new(file, events)];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut files, Some(&at_once)).is_ok_and(|count| count > 0)
}

/// Most descriptors that go with a packet.
pub(super) const MOST_FILES: usize = 8;

/// Sends one packet, and descriptors with it.
pub(super) fn put(socket: &OwnedFd, packet: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::other("too many descriptors"));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(socket, &[IoSlice::new(packet)], &mut control, flags)?;
    Ok(())
}

/// Receives one packet; empty at the end of the connection, `None` when there is none at the moment.
pub(super) fn get(socket: &OwnedFd) -> io::Result<Option<Vec<u8>>> {
    let mut packet = vec![0; LARGEST_PACKET];
    match recv(socket, packet.as_mut_slice(), RecvFlags::DONTWAIT) {
        Ok((length, _)) => {
            packet.truncate(length);
            Ok(Some(packet))
        }
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_that_an_agent_listens_on_are_taken_from_the_table() {
        let listens =
            "0000000000000000: 00000002 00000000 00010000 0005 01 4711 @pystap-agent/00ff";
        assert_eq!(agents(listens), Some((4711, "pystap-agent/00ff")));
        for other in [
            "Num       RefCount Protocol Flags    Type St Inode Path",
            "0000000000000000: 00000003 00000000 00000000 0005 03 4712 @pystap-agent/00ff",
            "0000000000000000: 00000002 00000000 00010000 0001 01 4713 @/tmp/.X11-unix/X0",
            "0000000000000000: 00000002 00000000 00010000 0001 01 4714 /run/pystap-agent/x",
            "0000000000000000: 00000002 00000000 00000000 0002 01 4715",
        ] {
            assert_eq!(agents(other), None, "{other}");
        }
    }

    #[test]
    fn a_listener_is_joined_by_its_name_and_knows_who_came() {
        let (listening, name) = listener(None, 0).expect("a socket");
        let socket = connection(std::process::id(), &name).expect("it listens");
        put(&socket, b"here", &[]).expect("sent");
        let accepted = rustix::net::accept(&listening).expect("somebody came");
        assert_eq!(get(&accepted).expect("read").expect("a packet"), b"here");
        let (pid, uid) = peer(&accepted).expect("known");
        assert_eq!(
            (pid, uid),
            (std::process::id(), rustix::process::geteuid().as_raw())
        );
        assert_eq!(process(&accepted, pid), Identity::of(pid));
        assert!(!has_hung_up(&accepted));
        drop(socket);
        assert!(has_hung_up(&accepted));
        assert_eq!(get(&accepted).expect("read").expect("the end"), b"");
    }

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn who_has_ended_is_nobody_even_while_its_connection_is_held() {
        let (listening, name) = listener(None, 0).expect("a socket");
        // The child of the process that connects holds the connection, and waits for its input to end.
        let program = format!(
            "import os, socket, sys\n\
             s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n\
             s.connect('\\0{name}')\n\
             if os.fork() == 0: sys.stdin.read()\n"
        );
        let mut child = std::process::Command::new("/usr/bin/python3")
            .args(["-c", &program])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("it starts");
        let input = child.stdin.take();
        assert!(child.wait().expect("it ends").success());
        // Any process on this machine can connect; this one has.
        let accepted = loop {
            let accepted = rustix::net::accept(&listening).expect("somebody came");
            if peer(&accepted).expect("known").0 == child.id() {
                break accepted;
            }
        };
        assert!(!has_hung_up(&accepted));
        assert_eq!(process(&accepted, child.id()), None);
        drop(input);
    }

    #[test]
    fn what_is_random_is_as_long_as_it_should_be_and_never_the_same() {
        let (one, other) = (random().expect("random"), random().expect("random"));
        assert_eq!((one.len(), other.len()), (32, 32));
        assert_ne!(one, other);
    }
}
