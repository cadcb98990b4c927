//! Sockets between pystap and its agents: abstract Unix sockets that keep packets apart. Abstract names belong to a network
//! namespace, so whatever concerns a process is made in the namespace of that process.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use pystap_agent_protocol::{LARGEST_PACKET, SOCKET_PREFIX};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect,
    listen, recv, send, socket_with, sockopt,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// What the names of pystap's own sockets begin with.
const OURS: &str = "pystap-session/";
/// Connections that may wait to be accepted: a service may fork all its workers at once.
const BACKLOG: i32 = 1024;

/// Names of the sockets on which a process waits for pystap.
pub(super) fn of_process(pid: u32) -> io::Result<Vec<String>> {
    let table = fs::read_to_string(format!("/proc/{pid}/net/unix"))?;
    let candidates: Vec<(u64, &str)> = table.lines().filter_map(agents).collect();
    if candidates.is_empty() {
        return Ok(Vec::new());
    }
    let mut inodes = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let Ok(target) = fs::read_link(entry?.path()) else {
            continue;
        };
        let inode = target.to_str().and_then(|target| {
            let number = target.strip_prefix("socket:[")?.strip_suffix(']')?;
            number.parse::<u64>().ok()
        });
        inodes.extend(inode);
    }
    Ok(candidates
        .into_iter()
        .filter(|(inode, _)| inodes.contains(inode))
        .map(|(_, name)| name.to_owned())
        .collect())
}

/// Inode and name of a socket that an agent listens on, from a line of /proc/net/unix: the inode and the name, which begins
/// with `@`, come last.
pub(super) fn agents(line: &str) -> Option<(u64, &str)> {
    let (rest, name) = line.split_once(" @")?;
    if !name.starts_with(SOCKET_PREFIX) {
        return None;
    }
    let mut fields = rest.split_whitespace();
    // The flag of a socket that listens (`__SO_ACCEPTCON`); connections have the name of their listener, too.
    let listens = fields.nth(3) == Some("00010000");
    let inode = fields.next_back()?.parse().ok()?;
    listens.then_some((inode, name))
}

/// A socket that agents can join, and its name.
pub(super) fn listener(near: Option<u32>) -> io::Result<(OwnedFd, String)> {
    let mut digits = [0; 8];
    io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut digits)?;
    let name = format!("{OURS}{:016x}", u64::from_ne_bytes(digits));
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

/// Which network namespace a process is in; equal numbers are the same.
pub(super) fn network_of(process: &str) -> io::Result<u64> {
    fs::metadata(format!("/proc/{process}/ns/net")).map(|metadata| metadata.ino())
}

/// Does something in the network namespace of a process. On a thread of its own, because a namespace is entered by a thread.
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

/// Process and user at the other end.
pub(super) fn peer(socket: &OwnedFd) -> io::Result<(u32, u32)> {
    let peer = sockopt::socket_peercred(socket)?;
    Ok((
        peer.pid.as_raw_nonzero().get().unsigned_abs(),
        peer.uid.as_raw(),
    ))
}

/// Sends one packet.
pub(super) fn put(socket: &OwnedFd, packet: &[u8]) -> io::Result<()> {
    send(socket, packet, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
    Ok(())
}

/// One packet; empty at the end of the connection, `None` when there is none at the moment.
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
        let (listening, name) = listener(None).expect("a socket");
        let socket = connection(std::process::id(), &name).expect("it listens");
        put(&socket, b"here").expect("sent");
        let accepted = rustix::net::accept(&listening).expect("somebody came");
        assert_eq!(get(&accepted).expect("read").expect("a packet"), b"here");
        let (pid, uid) = peer(&accepted).expect("known");
        assert_eq!(
            (pid, uid),
            (std::process::id(), rustix::process::geteuid().as_raw())
        );
        drop(socket);
        assert_eq!(get(&accepted).expect("read").expect("the end"), b"");
    }
}
