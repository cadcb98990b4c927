//! Sockets by inode, from the tables of a process's network namespace (`/proc/PID/net`).

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Most of a table that is read, and of all tables that is kept: hosts with a million sockets exist.
const MOST_READ: u64 = 128 << 20;
const MOST_KEPT: usize = 1 << 18;

/// A socket, as the kernel's table has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Socket {
    /// `tcp`, `udp`, `unix`, `netlink`.
    pub(crate) protocol: &'static str,
    /// `ESTABLISHED`, `LISTEN`, …; of TCP alone.
    pub(crate) state: Option<&'static str>,
    /// Its own end.
    pub(crate) local: Option<End>,
    /// The other end; `None` where it has none.
    pub(crate) remote: Option<End>,
}

/// An end of a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// An address of the internet's protocols.
    Internet(SocketAddr),
    /// A path, or an abstract name, which begins with `@`.
    Path(Vec<u8>),
}

/// The sockets of a network namespace, by inode.
pub(super) fn of(pid: u32) -> HashMap<u64, Socket> {
    const TABLES: [(&str, Parse); 6] = [
        ("tcp", |line| internet(line, "tcp")),
        ("tcp6", |line| internet(line, "tcp")),
        ("udp", |line| internet(line, "udp")),
        ("udp6", |line| internet(line, "udp")),
        ("unix", unix),
        ("netlink", netlink),
    ];
    let mut sockets = HashMap::new();
    for (table, parse) in TABLES {
        let Ok(file) = File::open(format!("/proc/{pid}/net/{table}")) else {
            continue;
        };
        let lines = BufReader::new(file.take(MOST_READ)).split(b'\n');
        for (inode, socket) in lines.map_while(Result::ok).filter_map(|line| parse(&line)) {
            if sockets.len() < MOST_KEPT {
                sockets.insert(inode, socket);
            }
        }
    }
    sockets
}

type Parse = fn(&[u8]) -> Option<(u64, Socket)>;

fn fields(line: &[u8]) -> Vec<&str> {
    let fields = line.split(u8::is_ascii_whitespace);
    fields
        .filter(|field| !field.is_empty())
        .map_while(|field| str::from_utf8(field).ok())
        .collect()
}

fn internet(line: &[u8], protocol: &'static str) -> Option<(u64, Socket)> {
    let fields = fields(line);
    let end = |at: usize| address(fields.get(at)?);
    let inode: u64 = fields.get(9)?.parse().ok()?;
    let number = u8::from_str_radix(fields.get(3)?, 16).ok()?;
    let (local, remote) = (end(1)?, end(2)?);
    let has_peer = remote.port() != 0 || !remote.ip().is_unspecified();
    Some((
        inode,
        Socket {
            protocol,
            state: (protocol == "tcp").then(|| state(number)).flatten(),
            local: Some(End::Internet(local)),
            remote: has_peer.then_some(End::Internet(remote)),
        },
    ))
}

/// An address as the kernel writes it: words of 32 bits in the machine's byte order, each as a number, and a port.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let word = address.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(word, 16).ok()?.to_ne_bytes())
    };
    let address = match address.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

fn state(number: u8) -> Option<&'static str> {
    const STATES: [&str; 11] = [
        "ESTABLISHED",
        "SYN_SENT",
        "SYN_RECV",
        "FIN_WAIT1",
        "FIN_WAIT2",
        "TIME_WAIT",
        "CLOSE",
        "CLOSE_WAIT",
        "LAST_ACK",
        "LISTEN",
        "CLOSING",
    ];
    STATES.get(usize::from(number).checked_sub(1)?).copied()
}

fn unix(line: &[u8]) -> Option<(u64, Socket)> {
    // Seven fields, and a path that may have blanks in it.
    let mut rest = line;
    let mut last: &[u8] = b"";
    for _ in 0..7 {
        let begin = rest.iter().position(|byte| *byte != b' ')?;
        rest = rest.get(begin..)?;
        let end = rest
            .iter()
            .position(|byte| *byte == b' ')
            .unwrap_or(rest.len());
        (last, rest) = rest.split_at_checked(end)?;
    }
    let inode = str::from_utf8(last).ok()?.parse().ok()?;
    let path = rest.strip_prefix(b" ").filter(|path| !path.is_empty());
    Some((
        inode,
        Socket {
            protocol: "unix",
            state: None,
            local: path.map(|path| End::Path(path.to_vec())),
            remote: None,
        },
    ))
}

fn netlink(line: &[u8]) -> Option<(u64, Socket)> {
    let inode = fields(line).last()?.parse().ok()?;
    Some((
        inode,
        Socket {
            protocol: "netlink",
            state: None,
            local: None,
            remote: None,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn both_ends_of_a_connection_are_read_in_both_families() {
        let line = b"   3: 0100007F:1F90 0200A8C0:0050 01 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 20 4 30 10 -1";
        let (inode, socket) = internet(line, "tcp").expect("a socket");
        assert_eq!((inode, socket.state), (4711, Some("ESTABLISHED")));
        let end = |text: &str| Some(End::Internet(text.parse().expect("an address")));
        assert_eq!(socket.local, end("127.0.0.1:8080"));
        assert_eq!(socket.remote, end("192.168.0.2:80"));
        let line = b" 0: 00000000000000000000000001000000:0016 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 99";
        let (_, socket) = internet(line, "tcp").expect("a socket");
        assert_eq!(socket.local, end("[::1]:22"));
        assert_eq!((socket.remote, socket.state), (None, Some("LISTEN")));
        let line = b" 0: 0000000000000000FFFF00000100007F:0016 0000000000000000FFFF00000100007F:8000 01 0:0 0:0 0 0 0 99";
        let (_, socket) = internet(line, "tcp").expect("a socket");
        assert_eq!(socket.remote, end("127.0.0.1:32768"));
    }

    #[test]
    fn paths_of_unix_sockets_are_whatever_they_are() {
        let line = b"0000000000000000: 00000002 00000000 00010000 0001 01 12345 /run/a b\xff.sock";
        let (inode, socket) = unix(line).expect("a socket");
        assert_eq!(inode, 12345);
        assert_eq!(socket.local, Some(End::Path(b"/run/a b\xff.sock".to_vec())));
        let (_, socket) = unix(b"0: 2 0 0 1 03 77").expect("a socket");
        assert_eq!(socket.local, None);
    }

    #[test]
    fn headings_and_rubbish_are_no_sockets() {
        for line in [
            b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode".as_slice(),
            b"",
            b"\xff\xff\xff",
            b"1: x:y z 0A",
        ] {
            assert_eq!(internet(line, "tcp"), None);
            assert_eq!(unix(line), None);
        }
    }
}
