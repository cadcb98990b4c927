//! The native thread's work: a listening socket, connections of pystap, and what they ask for.
//!
//! [`CONTROL`] belongs to the thread while it runs, and to whoever holds the interpreter's lock while it does not. Before
//! a fork the thread is stopped and after it started again, state and sockets untouched: a child never inherits a half
//! done step, and a program with one thread is seen to fork with one thread (3.12 warns of others).

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ffi::{c_int, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use pystap_agent_protocol::{
    Follow, FromAgent, Hello, Joined, LARGEST_PACKET, PROTOCOL, SOCKET_PREFIX, Start, Started,
    ToAgent, Way, decode, encode,
};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::{self, Errno};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with,
    bind, connect, listen, recv, send, socket_with,
};
use rustix::process::{getpid, getppid};

use crate::gil::{self, Guarded};
use crate::libc;
use crate::python::api;
use crate::session::{self, LIVE, refused};
use crate::thread;
use crate::thread::{Native, wait_while, wake};
use crate::{module, profile, python};

/// How long a socket without a session waits when the agent is not to stay, in milliseconds.
const WITHOUT_VISITORS: i64 = 30_000;
/// How long a connection may stay without a session.
const UNDECIDED: i64 = 30_000;
/// How long a process that follows another waits for its session: a fork's child, and a launched command.
const UNANSWERED: i64 = 1000;
const UNANSWERED_LAUNCH: i64 = 2000;
/// How often threads are looked for.
const LOOKS: i64 = 100;
/// Most connections at a time.
const MOST_PEERS: usize = 8;

/// A connection.
struct Peer {
    socket: OwnedFd,
    pid: i32,
    /// When it is closed if it has no session by then.
    patience: i64,
    /// Whether the agent made it, and everything ends with it.
    joined: bool,
}

/// What the thread works on.
pub(crate) struct Control {
    hello: Option<Hello>,
    name: String,
    listener: Option<OwnedFd>,
    wakeup: Option<OwnedFd>,
    peers: Vec<Peer>,
    /// Which of the peers has the session, what it asked for and what it was told.
    session: Option<(i32, Start, Started)>,
    /// A session that a fork's child has of its parent, until it is claimed.
    inherited: Option<(Start, Started)>,
    /// A socket to connect to, and the patience with whoever should answer.
    join: Option<(Follow, i64)>,
    /// When the socket is closed if nobody has come.
    patience: i64,
    thread: Option<Native>,
    /// When to look for threads, where that is necessary.
    next_look: i64,
    /// Forks that are under way.
    forks: u32,
}

pub(crate) static CONTROL: Guarded<Control> = Guarded::new(Control {
    hello: None,
    name: String::new(),
    listener: None,
    wakeup: None,
    peers: Vec::new(),
    session: None,
    inherited: None,
    join: None,
    patience: 0,
    thread: None,
    next_look: 0,
    forks: 0,
});

/// Whether the thread is to stay when a session ends.
static DORMANT: AtomicBool = AtomicBool::new(false);
/// The thread pointer of the thread.
static NATIVE: AtomicUsize = AtomicUsize::new(0);
/// Whether to look for threads at once.
static LOOK: AtomicBool = AtomicBool::new(false);
/// Whether the thread has to return, for a fork.
static PAUSED: AtomicBool = AtomicBool::new(false);
/// Whether the thread has done its work and closed everything.
static ENDED: AtomicBool = AtomicBool::new(true);
/// 1 while somebody waits for a session that was asked for by joining.
static JOINING: AtomicU32 = AtomicU32::new(0);
/// 1 while a forking thread waits for the native one to return.
static RETURNING: AtomicU32 = AtomicU32::new(0);

/// Milliseconds of a clock that only goes forward.
fn now() -> i64 {
    let mut time = libc::Time {
        seconds: 0,
        nanoseconds: 0,
    };
    // SAFETY: writes to a local.
    unsafe { libc::clock_gettime(libc::MONOTONIC, &raw mut time) };
    time.seconds
        .wrapping_mul(1000)
        .wrapping_add(time.nanoseconds / 1_000_000)
}

pub(crate) fn is_running() -> bool {
    !ENDED.load(Ordering::SeqCst)
}

pub(crate) fn is_dormant() -> bool {
    DORMANT.load(Ordering::SeqCst)
}

/// The socket's name; it only changes while there is no thread.
pub(crate) unsafe fn name(control: &Control) -> String {
    control.name.clone()
}

/// Has the thread look for threads without a profile function as soon as it can.
pub(crate) fn look_soon() {
    LOOK.store(true, Ordering::SeqCst);
    // SAFETY: whoever holds the interpreter's lock finds the thread running, and it closes the descriptor at its end
    // only, when no session is on.
    unsafe {
        if let Some(wakeup) = &(*CONTROL.get()).wakeup {
            let _ = io::write(wakeup, &1_u64.to_ne_bytes());
        }
    }
}

/// Whether the caller is the agent's thread.
pub(crate) fn is_native_thread() -> bool {
    NATIVE.load(Ordering::Relaxed) == thread::current()
}

/// Begins to wait for pystap, unless that is done already. The caller holds the interpreter's lock.
pub(crate) unsafe fn start(dormant: bool, follow: Option<Follow>) -> Result<(), Errno> {
    if dormant {
        DORMANT.store(true, Ordering::SeqCst);
    }
    if is_running() {
        return Ok(());
    }
    let control = &mut *CONTROL.get();
    if let Some(thread) = control.thread.take() {
        // It has said that it is done, and needs no lock for the rest.
        thread.join();
    }
    DORMANT.store(dormant, Ordering::SeqCst);
    let waits = follow.is_some();
    control.join = follow.map(|follow| (follow, UNANSWERED_LAUNCH));
    open(control)?;
    JOINING.store(u32::from(waits), Ordering::SeqCst);
    begin(control)?;
    if waits {
        gil::without(|| wait_while(&JOINING, 1, UNANSWERED_LAUNCH));
    }
    Ok(())
}

/// Opens the socket. The caller holds the interpreter's lock, and there is no thread.
unsafe fn open(control: &mut Control) -> Result<(), Errno> {
    let mut random = [0_u8; 8];
    rustix::rand::getrandom(&mut random[..], rustix::rand::GetRandomFlags::empty())?;
    let name = format!("{SOCKET_PREFIX}{:016x}", u64::from_ne_bytes(random));
    let listener = new_socket()?;
    bind(
        &listener,
        &SocketAddrUnix::new_abstract_name(name.as_bytes())?,
    )?;
    listen(&listener, 8)?;
    let wakeup = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let (python, _) = python::version();
    control.hello = Some(Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_string(),
        python,
        implementation: module::implementation(),
        pid: getpid().as_raw_nonzero().get().unsigned_abs(),
        way: session::way(python),
        busy: false,
        dormant: false,
    });
    control.name = name;
    control.listener = Some(listener);
    control.wakeup = Some(wakeup);
    control.patience = now().wrapping_add(WITHOUT_VISITORS);
    Ok(())
}

fn new_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// Starts the thread. The caller holds the interpreter's lock.
unsafe fn begin(control: &mut Control) -> Result<(), Errno> {
    ENDED.store(false, Ordering::SeqCst);
    match Native::start(body) {
        Ok(thread) => {
            control.thread = Some(thread);
            Ok(())
        }
        Err(error) => {
            ENDED.store(true, Ordering::SeqCst);
            close(control);
            Err(Errno::from_raw_os_error(error))
        }
    }
}

unsafe fn close(control: &mut Control) {
    control.peers.clear();
    control.listener = None;
    control.wakeup = None;
    control.name = String::new();
    control.session = None;
    control.inherited = None;
    control.join = None;
}

unsafe extern "C" fn body(_: *mut c_void) -> *mut c_void {
    thread::begin();
    let control = &mut *CONTROL.get();
    if let Some((follow, patience)) = control.join.take()
        && join(control, &follow, patience).is_err()
    {
        give_up(control);
    }
    NATIVE.store(thread::current(), Ordering::Relaxed);
    let mut buffer = alloc::vec![0; LARGEST_PACKET];
    while !PAUSED.load(Ordering::SeqCst) {
        if !turn(control, &mut buffer) {
            close(control);
            ENDED.store(true, Ordering::SeqCst);
            return null_mut();
        }
    }
    null_mut()
}

/// Waits for something and sees to it. False when the work is done.
unsafe fn turn(control: &mut Control, buffer: &mut [u8]) -> bool {
    let (Some(listener), Some(wakeup)) = (&control.listener, &control.wakeup) else {
        return false;
    };
    let peers = &control.peers;
    let mut waited = Vec::with_capacity(peers.len() + 2);
    waited.push(PollFd::new(wakeup, PollFlags::IN));
    waited.push(PollFd::new(listener, PollFlags::IN));
    waited.extend(
        peers
            .iter()
            .map(|peer| PollFd::new(&peer.socket, PollFlags::IN)),
    );
    let timeout = next_deadline(control).map(|at| {
        let rest = at.wrapping_sub(now()).max(0);
        Timespec {
            tv_sec: rest / 1000,
            tv_nsec: rest % 1000 * 1_000_000,
        }
    });
    match poll(&mut waited, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(_) => return false,
    }
    let ready: Vec<bool> = waited.iter().map(|one| !one.revents().is_empty()).collect();
    drop(waited);
    let mut ready = ready.into_iter();
    if ready.next() == Some(true) {
        let _ = io::read(wakeup, &mut [0; 8]);
        if !LOOK.swap(false, Ordering::SeqCst) {
            return true;
        }
        control.next_look = 0;
    }
    let is_visited = ready.next() == Some(true);
    // From the last, because handling one can take it out.
    let ready: Vec<bool> = ready.collect();
    for (at, is_ready) in ready.into_iter().enumerate().rev() {
        if is_ready {
            hear(control, at, buffer);
        }
    }
    if is_visited {
        receive_visitor(control);
    }
    drop_the_undecided(control);
    if control.session.is_some() && looks(control) && now() >= control.next_look {
        gil::with(|| profile::look());
        control.next_look = now().wrapping_add(LOOKS);
    }
    !is_done(control)
}

/// When to look again without being called.
unsafe fn next_deadline(control: &Control) -> Option<i64> {
    let session = control.session.as_ref().map(|(socket, ..)| *socket);
    let undecided = control
        .peers
        .iter()
        .filter(|peer| Some(peer.socket.as_raw_fd()) != session)
        .map(|peer| peer.patience)
        .min();
    let own = (!is_dormant() && control.peers.is_empty()).then_some(control.patience);
    let look = control
        .session
        .as_ref()
        .map(|_| control.next_look)
        .filter(|_| looks(control));
    undecided.into_iter().chain(own).chain(look).min()
}

/// Whether threads have to be looked for.
fn looks(control: &Control) -> bool {
    control
        .hello
        .as_ref()
        .is_some_and(|hello| hello.way == Way::Profile)
}

unsafe fn is_done(control: &Control) -> bool {
    !is_dormant() && control.peers.is_empty() && now() >= control.patience
}

unsafe fn drop_the_undecided(control: &mut Control) {
    let session = control.session.as_ref().map(|(socket, ..)| *socket);
    let now = now();
    let mut at = 0;
    while let Some(peer) = control.peers.get(at) {
        if Some(peer.socket.as_raw_fd()) != session && now >= peer.patience {
            leave(control, at);
        } else {
            at += 1;
        }
    }
}

/// Takes a connection, if who made it may trace this process.
unsafe fn receive_visitor(control: &mut Control) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let accepted = control
        .listener
        .as_ref()
        .map(|listener| accept_with(listener, flags));
    let Some(Ok(socket)) = accepted else { return };
    let Some(credentials) = credentials(&socket).filter(may_trace) else {
        return;
    };
    if control.peers.len() >= MOST_PEERS {
        return;
    }
    let peer = Peer {
        socket,
        pid: credentials.pid,
        patience: now().wrapping_add(UNDECIDED),
        joined: false,
    };
    let hello = FromAgent::Hello(hello(control));
    if tell(&peer.socket, &hello) {
        control.peers.push(peer);
    }
}

unsafe fn hello(control: &Control) -> Hello {
    let mut hello = control.hello.clone().unwrap_or_else(|| Hello {
        protocol: PROTOCOL,
        version: String::new(),
        python: [0; 3],
        implementation: String::new(),
        pid: 0,
        way: session::way([0; 3]),
        busy: false,
        dormant: false,
    });
    hello.busy = control.session.is_some();
    hello.dormant = is_dormant();
    hello
}

fn credentials(socket: &OwnedFd) -> Option<libc::Credentials> {
    let mut credentials = libc::Credentials::default();
    let mut size = size_of::<libc::Credentials>() as u32;
    let (level, option) = libc::PEER_CREDENTIALS;
    // SAFETY: pointers to locals of the sizes that are given.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            &raw mut credentials,
            &raw mut size,
        )
    };
    (status == 0).then_some(credentials)
}

/// Root and the process's own user. A user id that has no meaning in our user namespace arrives as the overflow id, which
/// stands for anybody.
fn may_trace(peer: &libc::Credentials) -> bool {
    let own = rustix::process::geteuid().as_raw();
    peer.uid == 0 || (peer.uid == own && peer.uid != overflow_uid())
}

fn overflow_uid() -> u32 {
    let mut text = [0; 16];
    let read = rustix::fs::open(
        c"/proc/sys/kernel/overflowuid",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .and_then(|file| io::read(&file, &mut text));
    let digits = text.get(..read.unwrap_or(0)).unwrap_or_default();
    let digits = core::str::from_utf8(digits).unwrap_or_default();
    digits.trim().parse().unwrap_or(65534)
}

/// Sends a message. A peer that does not read its few messages is no peer.
fn tell(socket: &OwnedFd, message: &FromAgent) -> bool {
    let Ok(packet) = encode(message) else {
        return false;
    };
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    send(socket, &packet, flags).is_ok_and(|sent| sent == packet.len())
}

/// Reads what a peer says and does it.
unsafe fn hear(control: &mut Control, at: usize, buffer: &mut [u8]) {
    let Some(peer) = control.peers.get(at) else {
        return;
    };
    let number = peer.socket.as_raw_fd();
    let length = match recv(
        &peer.socket,
        &mut *buffer,
        RecvFlags::DONTWAIT | RecvFlags::TRUNC,
    ) {
        Ok((_, 0)) => return leave(control, at),
        Ok((_, length)) => length,
        Err(Errno::AGAIN | Errno::INTR) => return,
        Err(_) => return leave(control, at),
    };
    let message = buffer.get(..length).map(decode::<ToAgent>);
    let answer = match message {
        Some(Ok(ToAgent::Start(wanted))) => start_session(control, number, peer.pid, wanted),
        Some(Ok(ToAgent::Stop {})) => {
            if control
                .session
                .as_ref()
                .is_some_and(|(owner, ..)| *owner == number)
            {
                FromAgent::Stopped(stop_session(control))
            } else {
                FromAgent::Refused(refused(
                    "there is no session of this connection, so nothing was stopped",
                    "send start first",
                ))
            }
        }
        Some(Err(_)) | None => FromAgent::Refused(refused(
            "the agent does not understand this message, so nothing was changed",
            "use the pystap that the agent came with",
        )),
    };
    let told = control
        .peers
        .get(at)
        .is_some_and(|peer| tell(&peer.socket, &answer));
    if !told {
        leave(control, at);
    }
}

unsafe fn start_session(control: &mut Control, number: i32, pid: i32, wanted: Start) -> FromAgent {
    if let Some((owner, ..)) = &control.session {
        let owner = *owner;
        let pid = control
            .peers
            .iter()
            .find(|peer| peer.socket.as_raw_fd() == owner)
            .map_or(pid, |peer| peer.pid);
        return FromAgent::Refused(refused(
            format!(
                "process {pid} already traces this program with its agent, which serves one at a time"
            ),
            format!("end that session (kill -INT {pid}), then start again"),
        ));
    }
    let started = match control.inherited.take() {
        Some((ours, started)) if is_same(&ours, &wanted) => Some(Ok(started)),
        _ => gil::with(|| session::start(&wanted)),
    };
    let answer = match started {
        Some(Ok(started)) => {
            control.session = Some((number, wanted, started.clone()));
            FromAgent::Started(started)
        }
        Some(Err(refused)) => FromAgent::Refused(refused),
        None => FromAgent::Refused(refused(
            "the interpreter is ending, so nothing was switched on",
            "trace the program from its start, or the next one",
        )),
    };
    JOINING.store(0, Ordering::SeqCst);
    wake(&JOINING);
    answer
}

/// Whether a session is what is on already. Where the children of this process join is nothing that was switched on.
fn is_same(ours: &Start, wanted: &Start) -> bool {
    let plain = |start: &Start| Start {
        follow: None,
        ..start.clone()
    };
    plain(ours) == plain(wanted)
}

unsafe fn stop_session(control: &mut Control) -> pystap_agent_protocol::Stopped {
    if let Some((owner, ..)) = control.session.take() {
        let patience = now().wrapping_add(UNDECIDED);
        for peer in &mut control.peers {
            if peer.socket.as_raw_fd() == owner {
                peer.patience = patience;
            }
        }
    }
    if !is_dormant() {
        control.patience = now();
    }
    switch_off()
}

fn switch_off() -> pystap_agent_protocol::Stopped {
    // SAFETY: `with` gives the lock that `stop` asks for.
    gil::with(|| unsafe { session::stop() }).unwrap_or_else(session::silence)
}

/// Closes a connection, and with it what it has switched on.
unsafe fn leave(control: &mut Control, at: usize) {
    if at >= control.peers.len() {
        return;
    }
    let peer = control.peers.remove(at);
    if let Some((owner, ..)) = &control.session
        && *owner == peer.socket.as_raw_fd()
    {
        stop_session(control);
    } else if peer.joined {
        give_up(control);
    }
}

/// Nobody wants the session that was hoped for.
unsafe fn give_up(control: &mut Control) {
    if control.inherited.take().is_some() {
        switch_off();
    }
    if !is_dormant() {
        control.patience = now();
    }
    JOINING.store(0, Ordering::SeqCst);
    wake(&JOINING);
}

/// Connects to whoever traced the process that this one comes from.
unsafe fn join(control: &mut Control, follow: &Follow, patience: i64) -> Result<(), Errno> {
    let socket = new_socket()?;
    connect(
        &socket,
        &SocketAddrUnix::new_abstract_name(follow.socket.as_bytes())?,
    )?;
    let credentials = credentials(&socket)
        .filter(may_trace)
        .ok_or(Errno::ACCESS)?;
    let parent = getppid().map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs());
    let joined = FromAgent::Joined(Joined {
        parent,
        secret: follow.secret.clone(),
        hello: hello(control),
    });
    if !tell(&socket, &joined) {
        return Err(Errno::PIPE);
    }
    control.peers.push(Peer {
        socket,
        pid: credentials.pid,
        patience: now().wrapping_add(patience),
        joined: true,
    });
    Ok(())
}

/// Stops the thread. The caller holds the interpreter's lock, which is given up while the thread needs it.
pub(crate) unsafe fn before_fork() {
    let control = &mut *CONTROL.get();
    control.forks += 1;
    if let Some(thread) = control.thread.take() {
        RETURNING.store(1, Ordering::SeqCst);
        PAUSED.store(true, Ordering::SeqCst);
        if let Some(wakeup) = &control.wakeup {
            let _ = io::write(wakeup, &1_u64.to_ne_bytes());
        }
        gil::without(|| thread.join());
        RETURNING.store(0, Ordering::SeqCst);
        wake(&RETURNING);
    } else if RETURNING.load(Ordering::SeqCst) == 1 {
        gil::without(|| wait_while(&RETURNING, 1, 5000));
    }
}

/// Starts it again. From 3.13 on the interpreter counts threads only after this, to warn of those that a child would miss;
/// a main thread that forks starts ours a little later there, when it goes on with its bytecode. (Another thread that
/// forks is a second one anyway.)
pub(crate) unsafe fn after_fork_in_parent() {
    let control = &mut *CONTROL.get();
    control.forks = control.forks.saturating_sub(1);
    let ([_, minor, _], _) = python::version();
    let is_main = rustix::thread::gettid() == getpid();
    if minor >= 13 && is_main && (api().Py_AddPendingCall)(restart, null_mut()) == 0 {
        return;
    }
    restart(null_mut());
}

/// Starts the thread if it should run and does not. The caller holds the interpreter's lock.
unsafe extern "C" fn restart(_: *mut c_void) -> c_int {
    let control = &mut *CONTROL.get();
    if control.forks == 0 && control.thread.is_none() && is_running() {
        PAUSED.store(false, Ordering::SeqCst);
        if begin(control).is_err() {
            session::stop();
        }
    }
    0
}

/// In the child: nothing of the parent's sockets, and the session only if somebody is to be asked for it.
pub(crate) unsafe fn after_fork_in_child() {
    let control = &mut *CONTROL.get();
    gil::forget_the_thread();
    control.forks = 0;
    RETURNING.store(0, Ordering::SeqCst);
    JOINING.store(0, Ordering::SeqCst);
    PAUSED.store(false, Ordering::SeqCst);
    // If somebody forked without a word before: the thread is not in this process.
    control.thread = None;
    if ENDED.swap(true, Ordering::SeqCst) {
        return;
    }
    let session = control.session.take();
    close(control);
    if (*LIVE.get()).on {
        match session.and_then(|(_, start, started)| Some((start.follow.clone()?, start, started)))
        {
            Some((follow, start, started)) => {
                session::fork();
                control.inherited = Some((start, started));
                control.join = Some((follow, UNANSWERED));
            }
            None => {
                session::stop();
            }
        }
    }
    let stays = control.join.is_some() || is_dormant();
    if stays && (open(control).is_err() || begin(control).is_err()) {
        session::stop();
    }
}
