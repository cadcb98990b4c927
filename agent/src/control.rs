//! The conversation with pystap: a native thread with a listening socket, connections, and what they ask for. Its
//! descriptors are in a table of its own (`descriptors`), and what needs the interpreter is done by a second thread
//! (`worker`).
//!
//! [`CONTROL`] belongs to the thread while it runs, and to whoever holds the interpreter's lock while it does not. Whoever
//! wants something of the thread connects to its *door*, another socket, which listens to this process only, and closes
//! that connection again: so the agent has no descriptor among the program's.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

use pystap_agent_protocol::{
    Follow, FromAgent, Hello, Joined, LARGEST_PACKET, PROTOCOL, Refused, SOCKET_PREFIX, Start,
    Started, ToAgent, Way, decode, encode,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::{self, Errno};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with,
    bind, connect, listen, recv, send, socket_with,
};
use rustix::process::{getpid, getppid};

use crate::descriptors::{self, Kept};
use crate::gil::{self, Guarded};
use crate::libc;
use crate::offered::Offered;
use crate::patience::{self, Patience};
use crate::session;
use crate::thread::{self, Native, until_gone, wait_while, wake};
use crate::{live, presence, profile, python, within, worker};

/// The thread's stack in bytes.
const STACK: usize = 256 << 10;
/// How long a socket without a session waits when the agent is not to stay, in milliseconds.
const WITHOUT_VISITORS: i64 = 30_000;
/// The same where pystap has to look for the socket first, which it does once per second.
const UNTIL_FOUND: i64 = 5_000;
/// How long a connection may stay without a session.
const UNDECIDED: i64 = 30_000;
/// The most that a launched command waits for its session; what `patience` gives up earlier ends it.
const LAUNCH: i64 = 10_000;
/// The most that a fork's child waits for a ring of its own.
const FORK: i64 = 500;
/// How long others wait for the thread to begin, and to end before a fork.
const TURN: i64 = 1000;
/// How long the end of the interpreter waits for what is still to be told.
const LAST_WORDS: i64 = 200;
/// How often threads are looked for.
const LOOKS: i64 = 100;
/// How long nobody is let in after the system could not do it (no descriptors, no memory).
const RESPITE: i64 = 200;
/// Most connections at a time.
const MOST_PEERS: usize = 8;

/// What the name of a door begins with.
const DOOR_PREFIX: &str = "pystap-inside/";
/// What is said at the door: look for threads; join, where the next packet says; tell what was not seen; end, and leave
/// your sockets here; take up these sockets; ask pystap for the rings that are wanted.
const SAY_LOOK: u8 = b'l';
const SAY_UNSEEN: u8 = b'u';
const SAY_JOIN: u8 = b'j';
const SAY_PARK: u8 = b'p';
const SAY_RESUME: u8 = b'r';
const SAY_RING: u8 = b'w';

/// A connection.
struct Peer {
    /// Tells it from others that there are or were.
    number: u64,
    /// Absent while there is no thread for it.
    socket: Option<OwnedFd>,
    pid: i32,
    /// When it is closed if it has no session by then.
    patience: i64,
    /// With whoever should answer, if the agent made the connection. Everything ends with it.
    joined: Option<Patience>,
}

/// What the thread works on.
pub(crate) struct Control {
    hello: Option<Hello>,
    name: String,
    door: Option<OwnedFd>,
    listener: Option<OwnedFd>,
    peers: Vec<Peer>,
    /// Number of the last peer.
    last: u64,
    /// Which of the peers has the session, what it asked for and what it was told.
    session: Option<(u64, Start, Started)>,
    /// A session that a fork's child has of its parent, until it is claimed.
    inherited: Option<(Start, Started)>,
    /// Where to join.
    join: Option<Follow>,
    /// Where it has joined last.
    joined: Option<Follow>,
    /// Whether the sockets of a thread before this one are to come through the door, and until when that is waited for.
    resuming: bool,
    resumed_until: i64,
    /// When the socket is closed if nobody has come.
    patience: i64,
    /// When to look for threads, where that is necessary.
    next_look: i64,
    /// Until when nobody is let in.
    respite: i64,
    /// Whether pystap knows that some of this session is not seen.
    told_unseen: bool,
}

impl Control {
    const NEW: Control = Control {
        hello: None,
        name: String::new(),
        door: None,
        listener: None,
        peers: Vec::new(),
        last: 0,
        session: None,
        inherited: None,
        join: None,
        joined: None,
        resuming: false,
        resumed_until: 0,
        patience: 0,
        next_look: 0,
        respite: 0,
        told_unseen: false,
    };
}

pub(crate) static CONTROL: Guarded<Control> = Guarded::new(Control::NEW);

/// Where the thread is: there is none; it begins; it works; it is asked to end for a fork; it sees to that; it has, and its
/// sockets wait.
static STAGE: AtomicU32 = AtomicU32::new(NONE);
const NONE: u32 = 0;
const BEGINNING: u32 = 1;
const WORKING: u32 = 2;
const ASKED: u32 = 3;
const PARKING: u32 = 4;
const PARKED: u32 = 5;

/// Whether the thread is to stay when a session ends.
static DORMANT: AtomicBool = AtomicBool::new(false);
/// Whether it once did not end in time for a fork, and is not asked again.
static BUSY: AtomicBool = AtomicBool::new(false);
/// Why it could not begin.
static FAILURE: AtomicI32 = AtomicI32::new(0);
/// The kernel's number of it.
static NUMBER: AtomicU32 = AtomicU32::new(0);
/// The digits of its door's name.
static DOOR: AtomicU64 = AtomicU64::new(0);
/// Whether to look for threads at once.
static LOOK: AtomicBool = AtomicBool::new(false);
/// 1 while somebody waits for a session that was asked for by joining.
static JOINING: AtomicU32 = AtomicU32::new(0);
/// 1 while somebody waits until it is told what was not seen: so many threads, so often a profiler of the program.
static TELLING: AtomicU32 = AtomicU32::new(0);
static UNSEEN: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

/// Places for which a ring is to be asked for, a bit for each.
static RINGS: AtomicU64 = AtomicU64::new(0);

/// Milliseconds of a clock that only goes forward.
fn now() -> i64 {
    libc::monotonic() / 1_000_000
}

/// Whether there is an agent at work in this process.
pub(crate) fn is_running() -> bool {
    STAGE.load(Ordering::SeqCst) != NONE && presence::is_ours()
}

pub(crate) fn is_dormant() -> bool {
    DORMANT.load(Ordering::SeqCst)
}

/// The socket's name; it only changes while there is no thread. Once it is told, it can be connected to.
pub(crate) unsafe fn name(control: &Control) -> String {
    wait_while(&STAGE, BEGINNING, TURN);
    if is_running() {
        control.name.clone()
    } else {
        String::new()
    }
}

/// Has the thread look for threads without a profile function as soon as it can.
pub(crate) fn look_soon() {
    LOOK.store(true, Ordering::SeqCst);
    if let Ok(visit) = at_the_door() {
        let _ = descriptors::send(&visit, SAY_LOOK, &[]);
    }
}

/// Has pystap asked for the ring of a place, or told that one is missing (0). False when that cannot be done.
pub(crate) fn ask_for_ring(place: usize) -> bool {
    RINGS.fetch_or(1 << (place & 63), Ordering::SeqCst);
    at_the_door().is_ok_and(|visit| descriptors::send(&visit, SAY_RING, &[]).is_ok())
}

/// Before the interpreter ends: has told what was not seen. The caller holds the lock, which is given up for the time.
pub(crate) unsafe fn tell_what_is_unseen() {
    if !is_running() || !live::is_on() || !profile::is_installed() {
        return;
    }
    let Ok(visit) = at_the_door() else { return };
    TELLING.store(1, Ordering::SeqCst);
    if descriptors::send(&visit, SAY_UNSEEN, &[]).is_ok() {
        gil::without(|| wait_while(&TELLING, 1, LAST_WORDS));
    }
}

/// Puts down what was not seen so far, and says whether there is anything. Called with the lock by the worker, whose thread
/// state is the newest and so tells how many there were.
unsafe fn note_what_is_unseen() -> bool {
    profile::account();
    let counts = live::counts();
    let numbers = [counts.unseen_threads, counts.replaced];
    for (word, number) in UNSEEN.iter().zip(numbers) {
        word.store(number, Ordering::SeqCst);
    }
    numbers != [0, 0]
}

/// A connection to the door, in the table of whoever asks.
fn at_the_door() -> Result<OwnedFd, Errno> {
    let socket = new_socket()?;
    connect(&socket, &door_name()?)?;
    Ok(socket)
}

fn door_name() -> Result<SocketAddrUnix, Errno> {
    let name = format!("{DOOR_PREFIX}{:016x}", DOOR.load(Ordering::SeqCst));
    SocketAddrUnix::new_abstract_name(name.as_bytes())
}

/// Begins to wait for pystap, unless that is done already, and joins where it is told to. The caller holds the
/// interpreter's lock.
pub(crate) unsafe fn start(dormant: bool, follow: Option<Follow>) -> Result<(), Errno> {
    if dormant {
        DORMANT.store(true, Ordering::SeqCst);
    }
    if is_running() {
        return follow.map_or(Ok(()), |follow| send_to_join(&follow));
    }
    DORMANT.store(dormant, Ordering::SeqCst);
    let control = &mut *CONTROL.get();
    let waits = follow.is_some();
    control.join = follow;
    JOINING.store(u32::from(waits), Ordering::SeqCst);
    presence::claim();
    name_it(control)?;
    begin()?;
    wait_while(&STAGE, BEGINNING, TURN);
    if STAGE.load(Ordering::SeqCst) == NONE {
        let failure = FAILURE.swap(0, Ordering::SeqCst);
        if failure != 0 {
            return Err(Errno::from_raw_os_error(failure));
        }
    }
    if waits {
        gil::without(|| wait_while(&JOINING, 1, LAUNCH));
    }
    Ok(())
}

/// Has a thread that runs already join. The caller holds the interpreter's lock, which is given up for the time.
unsafe fn send_to_join(follow: &Follow) -> Result<(), Errno> {
    wait_while(&STAGE, BEGINNING, TURN);
    let visit = at_the_door()?;
    JOINING.store(1, Ordering::SeqCst);
    let sent = descriptors::send(&visit, SAY_JOIN, &[]).and_then(|()| {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        send(&visit, follow.to_string().as_bytes(), flags)
    });
    if let Err(error) = sent {
        JOINING.store(0, Ordering::SeqCst);
        return Err(error);
    }
    gil::without(|| wait_while(&JOINING, 1, LAUNCH));
    Ok(())
}

/// Says who we are, under new names. The caller holds the interpreter's lock, and there is no thread.
unsafe fn name_it(control: &mut Control) -> Result<(), Errno> {
    let mut random = [0_u8; 16];
    rustix::rand::getrandom(&mut random[..], rustix::rand::GetRandomFlags::empty())?;
    let random = u128::from_ne_bytes(random);
    let (python, _) = python::version();
    control.hello = Some(Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_string(),
        python,
        implementation: python::implementation(),
        pid: getpid().as_raw_nonzero().get().unsigned_abs(),
        way: session::way(python),
        busy: false,
        dormant: false,
        free_threaded: python::is_free_threaded(),
    });
    control.name = format!("{SOCKET_PREFIX}{:016x}", random as u64);
    DOOR.store((random >> 64) as u64, Ordering::SeqCst);
    control.patience = now().wrapping_add(WITHOUT_VISITORS);
    Ok(())
}

fn new_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

fn new_listener(name: &SocketAddrUnix) -> Result<OwnedFd, Errno> {
    let socket = new_socket()?;
    bind(&socket, name)?;
    listen(&socket, 8)?;
    Ok(socket)
}

/// Starts the threads. The caller holds the interpreter's lock.
unsafe fn begin() -> Result<(), Errno> {
    FAILURE.store(0, Ordering::SeqCst);
    STAGE.store(BEGINNING, Ordering::SeqCst);
    let begun = worker::start().and_then(|()| {
        Native::start(body, STACK).map_err(|error| {
            worker::dismiss();
            Errno::from_raw_os_error(error)
        })
    });
    if begun.is_err() {
        STAGE.store(NONE, Ordering::SeqCst);
    }
    begun
}

/// Has the threads end for a fork. Their sockets wait in what is returned; nothing, if that was not to be had in time. The
/// caller holds the interpreter's lock, which is given up while the threads may need it.
pub(crate) unsafe fn park() -> Option<Kept> {
    if BUSY.load(Ordering::SeqCst) {
        return None;
    }
    wait_while(&STAGE, BEGINNING, TURN);
    let kept = Kept::new(at_the_door().ok()?).ok()?;
    let parked = STAGE
        .compare_exchange(WORKING, ASKED, Ordering::SeqCst, Ordering::SeqCst)
        .is_ok()
        && gil::without(|| {
            let is_told = kept
                .get()
                .is_some_and(|visit| descriptors::send(visit, SAY_PARK, &[]).is_ok());
            if is_told {
                wait_while(&STAGE, ASKED, TURN);
            }
            let is_late = STAGE
                .compare_exchange(ASKED, WORKING, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok();
            BUSY.store(is_late && is_told, Ordering::SeqCst);
            wait_while(&STAGE, PARKING, TURN);
            let has_parked = STAGE.load(Ordering::SeqCst) == PARKED;
            if has_parked {
                until_gone(worker::number());
                until_gone(NUMBER.load(Ordering::SeqCst));
            }
            has_parked
        });
    if parked {
        return Some(kept);
    }
    kept.close();
    None
}

/// Starts the threads again, with the sockets of those before. The caller holds the interpreter's lock.
pub(crate) unsafe fn resume(parked: Kept) {
    (*CONTROL.get()).resuming = true;
    if begin().is_ok() {
        wait_while(&STAGE, BEGINNING, TURN);
        if let Ok(visit) = at_the_door() {
            let sockets: Vec<BorrowedFd<'_>> = parked.get().into_iter().collect();
            let _ = descriptors::send(&visit, SAY_RESUME, &sockets);
        }
    } else {
        session::stop();
        forget();
    }
    parked.close();
}

/// In a fork's child: nothing of the parent's sockets, and the session only if somebody is to be asked for it. The caller
/// holds the interpreter's lock.
pub(crate) unsafe fn begin_in_child() {
    let was_running = STAGE.swap(NONE, Ordering::SeqCst) != NONE;
    worker::forget();
    JOINING.store(0, Ordering::SeqCst);
    BUSY.store(false, Ordering::SeqCst);
    forget();
    let control = &mut *CONTROL.get();
    let followed =
        session::asked().and_then(|(start, started)| Some((start.follow.clone()?, start, started)));
    let mut waits = false;
    match followed {
        Some((follow, ..)) if was_running && session::has_ring() => {
            // The ring is its parent's, so that there is nothing to tell through until pystap has given it one.
            session::stop();
            control.join = Some(follow);
            waits = true;
        }
        Some((follow, start, started)) if was_running => {
            session::fork();
            control.inherited = Some((start, started));
            control.join = Some(follow);
        }
        _ => {
            session::stop();
        }
    }
    let stays = control.join.is_some() || is_dormant();
    JOINING.store(u32::from(waits), Ordering::SeqCst);
    if was_running && stays && (name_it(control).is_err() || begin().is_err()) {
        session::stop();
        forget();
    } else if waits {
        gil::without(|| wait_while(&JOINING, 1, FORK));
    }
}

/// In a fork's child that is left alone: no thread, no socket, no session.
pub(crate) unsafe fn forget_in_child() {
    STAGE.store(NONE, Ordering::SeqCst);
    worker::forget();
    JOINING.store(0, Ordering::SeqCst);
    forget();
}

/// Begins anew. What was there is not dropped: its descriptors were those of a table that is gone.
unsafe fn forget() {
    core::ptr::write(CONTROL.get(), Control::NEW);
}

unsafe extern "C" fn body(_: *mut c_void) -> *mut c_void {
    NUMBER.store(thread::begin(), Ordering::SeqCst);
    let control = &mut *CONTROL.get();
    let opened = descriptors::leave_the_programs().and_then(|()| open(control));
    if let Err(error) = opened {
        FAILURE.store(error.raw_os_error(), Ordering::SeqCst);
        if control.inherited.take().is_some() || control.session.take().is_some() {
            switch_off();
        }
        return end(control);
    }
    STAGE.store(WORKING, Ordering::SeqCst);
    wake(&STAGE);
    if let Some(follow) = control.join.take() {
        join_or_give_up(control, &follow);
    }
    let mut buffer = alloc::vec![0; LARGEST_PACKET];
    loop {
        match turn(control, &mut buffer) {
            Turn::GoOn => {}
            Turn::End => return end(control),
            Turn::Parked => {
                worker::dismiss();
                STAGE.store(PARKED, Ordering::SeqCst);
                wake(&STAGE);
                return null_mut();
            }
        }
    }
}

/// The work is done.
unsafe fn end(control: &mut Control) -> *mut c_void {
    *control = Control::NEW;
    let_go();
    worker::dismiss();
    STAGE.store(NONE, Ordering::SeqCst);
    wake(&STAGE);
    null_mut()
}

/// Opens the sockets that are to be there, in the thread's own table.
unsafe fn open(control: &mut Control) -> Result<(), Errno> {
    control.door = Some(new_listener(&door_name()?)?);
    if control.resuming {
        control.resumed_until = now().wrapping_add(TURN);
        return Ok(());
    }
    control.listener = Some(listener(control)?);
    Ok(())
}

fn listener(control: &Control) -> Result<OwnedFd, Errno> {
    new_listener(&SocketAddrUnix::new_abstract_name(control.name.as_bytes())?)
}

/// What comes after a turn.
#[derive(PartialEq, Eq)]
enum Turn {
    GoOn,
    End,
    Parked,
}

/// Waits for something and sees to it.
unsafe fn turn(control: &mut Control, buffer: &mut [u8]) -> Turn {
    let rests = now() < control.respite;
    let door = control.door.as_ref().filter(|_| !rests);
    let listener = control.listener.as_ref().filter(|_| !rests);
    let sockets = door.into_iter().chain(listener);
    let peers = control.peers.iter().filter_map(|peer| peer.socket.as_ref());
    let mut waited: Vec<PollFd<'_>> = sockets
        .chain(peers)
        .map(|socket| PollFd::new(socket, PollFlags::IN))
        .collect();
    let (has_door, has_listener) = (door.is_some(), listener.is_some());
    let timeout = next_deadline(control, rests).map(|at| milliseconds(at.wrapping_sub(now())));
    let ready: Vec<bool> = match poll(&mut waited, timeout.as_ref()) {
        Ok(_) => waited.iter().map(|one| !one.revents().is_empty()).collect(),
        Err(Errno::INTR) => Vec::new(),
        Err(_) => {
            // More descriptors than the program may have, or no memory.
            let _ = rustix::thread::nanosleep(&milliseconds(RESPITE));
            Vec::new()
        }
    };
    drop(waited);
    let mut ready = ready.into_iter();
    if has_door && ready.next() == Some(true) && answer_the_door(control) == Turn::Parked {
        return Turn::Parked;
    }
    if control.resuming {
        if now() >= control.resumed_until {
            lose_the_sockets(control);
        }
        return Turn::GoOn;
    }
    if LOOK.swap(false, Ordering::SeqCst) {
        control.next_look = 0;
    }
    let is_visited = has_listener && ready.next() == Some(true);
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
        let is_new = gil::with(|| {
            profile::look();
            note_what_is_unseen()
        });
        if is_new == Some(true) && !core::mem::replace(&mut control.told_unseen, true) {
            tell_unseen(control);
        }
        control.next_look = now().wrapping_add(LOOKS);
    }
    if is_done(control) {
        Turn::End
    } else {
        Turn::GoOn
    }
}

fn milliseconds(number: i64) -> Timespec {
    let number = number.max(0);
    Timespec {
        tv_sec: number / 1000,
        tv_nsec: number % 1000 * 1_000_000,
    }
}

/// When to look again without being called.
unsafe fn next_deadline(control: &Control, rests: bool) -> Option<i64> {
    let undecided = control
        .peers
        .iter()
        .filter(|peer| !has_session(control, peer))
        .map(|peer| match peer.joined {
            Some(_) => peer.patience.min(now().wrapping_add(patience::LOOK)),
            None => peer.patience,
        })
        .min();
    let own = (!is_dormant() && control.peers.is_empty()).then_some(control.patience);
    let look = control
        .session
        .as_ref()
        .map(|_| control.next_look)
        .filter(|_| looks(control));
    let respite = rests.then_some(control.respite);
    let resumed = control.resuming.then_some(control.resumed_until);
    let all = undecided
        .into_iter()
        .chain(own)
        .chain(look)
        .chain(respite)
        .chain(resumed);
    all.min()
}

fn has_session(control: &Control, peer: &Peer) -> bool {
    matches!(&control.session, Some((owner, ..)) if *owner == peer.number)
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
    let now = now();
    let mut at = 0;
    while let Some(peer) = control.peers.get(at) {
        let is_over = !has_session(control, peer)
            && (now >= peer.patience
                || control
                    .peers
                    .get_mut(at)
                    .and_then(|peer| peer.joined.as_mut())
                    .is_some_and(|patience| patience.is_over(now)));
        if is_over {
            leave(control, at);
        } else {
            at += 1;
        }
    }
}

/// Lets in a thread of this process, and does what it says.
unsafe fn answer_the_door(control: &mut Control) -> Turn {
    let Some(Ok(visit)) = accept(control, |control| control.door.as_ref()) else {
        return Turn::GoOn;
    };
    if credentials(&visit).is_none_or(|peer| peer.pid != getpid().as_raw_nonzero().get()) {
        return Turn::GoOn;
    }
    // It says something at once.
    let mut waited = [PollFd::new(&visit, PollFlags::IN)];
    let _ = poll(&mut waited, Some(&milliseconds(TURN)));
    match descriptors::receive(&visit) {
        Ok(Some((SAY_PARK, _))) if hand_over(control, &visit) => Turn::Parked,
        Ok(Some((SAY_RESUME, sockets))) if control.resuming => {
            take_over(control, sockets);
            Turn::GoOn
        }
        Ok(Some((SAY_UNSEEN, _))) => {
            if gil::with(|| note_what_is_unseen()) == Some(true) {
                tell_unseen(control);
            }
            TELLING.store(0, Ordering::SeqCst);
            wake(&TELLING);
            Turn::GoOn
        }
        Ok(Some((SAY_RING, _))) => {
            ask_for_rings(control);
            Turn::GoOn
        }
        Ok(Some((SAY_JOIN, _))) => {
            hear_where_to_join(control, &visit);
            Turn::GoOn
        }
        _ => Turn::GoOn,
    }
}

/// Asks who has the session for the rings that are wanted.
fn ask_for_rings(control: &Control) {
    let places = RINGS.swap(0, Ordering::SeqCst);
    let owner = control.peers.iter().find(|peer| has_session(control, peer));
    let Some(socket) = owner.and_then(|peer| peer.socket.as_ref()) else {
        return;
    };
    for place in (0..u64::BITS).filter(|place| places >> place & 1 == 1) {
        tell(socket, &FromAgent::WantsRing { place });
    }
}

/// Tells who has the session what was not seen of it.
fn tell_unseen(control: &Control) {
    let owner = control.peers.iter().find(|peer| has_session(control, peer));
    let [threads, replaced] = &UNSEEN;
    let unseen = FromAgent::Unseen {
        threads: threads.load(Ordering::SeqCst),
        replaced: replaced.load(Ordering::SeqCst),
    };
    if let Some(socket) = owner.and_then(|peer| peer.socket.as_ref()) {
        tell(socket, &unseen);
    }
}

/// Joins where the next packet says.
unsafe fn hear_where_to_join(control: &mut Control, visit: &OwnedFd) {
    let mut waited = [PollFd::new(visit, PollFlags::IN)];
    let _ = poll(&mut waited, Some(&milliseconds(TURN)));
    let mut buffer = alloc::vec![0; LARGEST_PACKET];
    let text = recv(visit, &mut buffer[..], RecvFlags::DONTWAIT)
        .ok()
        .and_then(|(_, length)| core::str::from_utf8(buffer.get(..length)?).ok());
    match text.and_then(Follow::parse) {
        Some(follow) if !is_joined(control, &follow) => join_or_give_up(control, &follow),
        _ => let_go(),
    }
}

/// Whether it has joined there and is still connected. Who asks by a debugger's request asks several threads, and two of them
/// may come to it.
fn is_joined(control: &Control, follow: &Follow) -> bool {
    control.joined.as_ref() == Some(follow) && control.peers.iter().any(|it| it.joined.is_some())
}

/// Leaves the sockets to whoever holds the other end, for a thread that comes after this one.
unsafe fn hand_over(control: &mut Control, visit: &OwnedFd) -> bool {
    let begins = STAGE.compare_exchange(ASKED, PARKING, Ordering::SeqCst, Ordering::SeqCst);
    if begins.is_err() {
        return false;
    }
    let peers = control.peers.iter().filter_map(|peer| peer.socket.as_ref());
    let sockets: Vec<BorrowedFd<'_>> = control
        .listener
        .iter()
        .chain(peers)
        .map(AsFd::as_fd)
        .collect();
    if descriptors::send(visit, SAY_PARK, &sockets).is_err() {
        STAGE.store(WORKING, Ordering::SeqCst);
        wake(&STAGE);
        return false;
    }
    control.door = None;
    control.listener = None;
    for peer in &mut control.peers {
        peer.socket = None;
    }
    true
}

/// Takes up the sockets of the thread before, which are in one that is handed in.
unsafe fn take_over(control: &mut Control, sockets: Vec<OwnedFd>) {
    let parked = sockets.first().and_then(|parked| {
        let (_, sockets) = descriptors::receive(parked).ok()??;
        (sockets.len() == control.peers.len().saturating_add(1)).then_some(sockets)
    });
    let Some(parked) = parked else {
        return lose_the_sockets(control);
    };
    let mut sockets = parked.into_iter();
    control.listener = sockets.next();
    for (peer, socket) in control.peers.iter_mut().zip(sockets) {
        peer.socket = Some(socket);
    }
    control.resuming = false;
}

/// The program has closed what they were in.
unsafe fn lose_the_sockets(control: &mut Control) {
    control.resuming = false;
    while !control.peers.is_empty() {
        leave(control, 0);
    }
    control.listener = listener(control).ok();
}

/// Takes a connection of one of our sockets. Where the system cannot, nobody is let in for a while: the connection would
/// be announced again at once, and so on.
fn accept(
    control: &mut Control,
    which: fn(&Control) -> Option<&OwnedFd>,
) -> Option<Result<OwnedFd, Errno>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let accepted = which(control).map(|socket| accept_with(socket, flags))?;
    if let Err(error) = &accepted
        && !matches!(*error, Errno::AGAIN | Errno::INTR | Errno::CONNABORTED)
    {
        control.respite = now().wrapping_add(RESPITE);
    }
    Some(accepted)
}

/// Takes a connection, if who made it may trace this process.
unsafe fn receive_visitor(control: &mut Control) {
    let Some(Ok(socket)) = accept(control, |control| control.listener.as_ref()) else {
        return;
    };
    let Some(credentials) = credentials(&socket).filter(may_trace) else {
        return;
    };
    if control.peers.len() >= MOST_PEERS {
        return;
    }
    let hello = FromAgent::Hello(hello(control));
    if tell(&socket, &hello) {
        receive(control, socket, credentials.pid, None);
    }
}

fn receive(control: &mut Control, socket: OwnedFd, pid: i32, joined: Option<Patience>) {
    control.last = control.last.wrapping_add(1);
    control.peers.push(Peer {
        number: control.last,
        socket: Some(socket),
        pid,
        patience: now().wrapping_add(UNDECIDED),
        joined,
    });
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
        free_threaded: python::is_free_threaded(),
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
    let Some(socket) = &peer.socket else {
        return;
    };
    let number = peer.number;
    let (length, descriptors) = match descriptors::receive_packet(socket, buffer) {
        Ok((0, _)) => return leave(control, at),
        Ok(received) => received,
        Err(Errno::AGAIN | Errno::INTR) => return,
        Err(_) => return leave(control, at),
    };
    let message = buffer.get(..length).map(decode::<ToAgent>);
    let is_start = matches!(message, Some(Ok(ToAgent::Start(_))));
    let answer = match message {
        Some(Ok(ToAgent::Ring { place, ring: offer })) => {
            if has_session(control, peer) {
                let offered = offer.and_then(|offer| ring(offer, &descriptors).ok());
                within::give(place, offered);
            }
            return;
        }
        Some(Ok(ToAgent::Start(wanted))) => {
            start_session(control, number, peer.pid, wanted, descriptors)
        }
        Some(Ok(ToAgent::Stop {})) => {
            if control
                .session
                .as_ref()
                .is_some_and(|(owner, ..)| *owner == number)
            {
                FromAgent::Stopped(stop_session(control))
            } else {
                FromAgent::Refused(Refused::new(
                    "there is no session of this connection, so nothing was stopped",
                    "send start first",
                ))
            }
        }
        Some(Err(_)) | None => FromAgent::Refused(Refused::new(
            "the agent does not understand this message, so nothing was changed",
            "use the pystap that the agent came with",
        )),
    };
    let told = control
        .peers
        .get(at)
        .and_then(|peer| peer.socket.as_ref())
        .is_some_and(|socket| tell(socket, &answer));
    if !told {
        leave(control, at);
    }
    // Not before: a program that ends as soon as it is let go would be taken for one that ran untraced.
    if is_start {
        let_go();
    }
}

/// Lets the program go on that has waited for its session.
fn let_go() {
    JOINING.store(0, Ordering::SeqCst);
    wake(&JOINING);
}

unsafe fn start_session(
    control: &mut Control,
    number: u64,
    pid: i32,
    wanted: Start,
    descriptors: Vec<OwnedFd>,
) -> FromAgent {
    if let Some((owner, ..)) = &control.session {
        let owner = *owner;
        let pid = control
            .peers
            .iter()
            .find(|peer| peer.number == owner)
            .map_or(pid, |peer| peer.pid);
        return FromAgent::Refused(if pid > 0 {
            Refused::new(
                format!(
                    "process {pid} already traces this program with its agent, which serves one at a time"
                ),
                format!("end that session (kill -INT {pid}), then start again"),
            )
        } else {
            // It has no number in this pid namespace.
            Refused::new(
                "a pystap that runs outside of this program's container already traces it with the agent, which serves one at a time",
                "end that session where it runs, then start again",
            )
        });
    }
    let offered = match wanted.ring.map(|offer| ring(offer, &descriptors)) {
        None => None,
        Some(Ok(offered)) => Some(offered),
        Some(Err(refused)) => return FromAgent::Refused(refused),
    };
    let started = match control.inherited.take() {
        Some((ours, started)) if is_same(&ours, &wanted) && offered.is_none() => Some(Ok(started)),
        _ => gil::with(|| session::start(&wanted, offered, look_soon)),
    };
    match started {
        Some(Ok(started)) => {
            control.told_unseen = false;
            control.session = Some((number, wanted, started.clone()));
            FromAgent::Started(started)
        }
        Some(Err(refused)) => FromAgent::Refused(refused),
        None => FromAgent::Refused(Refused::new(
            "the interpreter is ending, so nothing was switched on",
            "trace the program from its start, or the next one",
        )),
    }
}

/// The ring that is offered, mapped.
fn ring(offer: pystap_agent_protocol::Ring, descriptors: &[OwnedFd]) -> Result<Offered, Refused> {
    let memory = descriptors.first().ok_or(Errno::BADF);
    let offered = memory.and_then(|memory| Offered::new(offer, memory));
    offered.map_err(|error| {
        Refused::new(
            format!(
                "the memory for its events cannot be used in this process (error {}), so nothing was switched on",
                error.raw_os_error()
            ),
            "look for limits of its address space (ulimit -v) and for a sandbox (seccomp), or use --engine uprobes",
        )
    })
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
            if peer.number == owner {
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
    gil::with(|| unsafe { session::stop() }).unwrap_or_else(live::silence)
}

/// Closes a connection, and with it what it has switched on.
unsafe fn leave(control: &mut Control, at: usize) {
    if at >= control.peers.len() {
        return;
    }
    let peer = control.peers.remove(at);
    if has_session(control, &peer) {
        stop_session(control);
    } else if peer.joined.is_some() {
        if let Some(socket) = &peer.socket {
            tell(socket, &FromAgent::GaveUp {});
        }
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
    let_go();
}

unsafe fn join_or_give_up(control: &mut Control, follow: &Follow) {
    if join(control, follow).is_err() {
        give_up(control);
        // Nobody can be heard from another network namespace; pystap finds our socket there.
        if !is_dormant() && is_elsewhere(follow) {
            control.patience = now().wrapping_add(UNTIL_FOUND);
        }
    }
}

/// Whether the socket is one of another network namespace than ours, whose number its name ends with.
fn is_elsewhere(follow: &Follow) -> bool {
    let (_, network) = follow.socket.rsplit_once('/').unwrap_or_default();
    let theirs = network.parse::<u64>();
    let ours = rustix::fs::stat(c"/proc/self/ns/net").map(|it| it.st_ino);
    matches!((theirs, ours), (Ok(theirs), Ok(ours)) if theirs != ours)
}

/// Connects to whoever traced the process that this one comes from.
///
/// # Errors
/// Nobody listens, or so many wait already that it would block (`EAGAIN`), or who listens is a stranger, or stopped.
unsafe fn join(control: &mut Control, follow: &Follow) -> Result<(), Errno> {
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
    // Who is stopped will know later that somebody was there.
    let mut patience = Patience::new(credentials.pid, now());
    if patience.is_over(now()) {
        tell(&socket, &FromAgent::GaveUp {});
        return Err(Errno::TIMEDOUT);
    }
    receive(control, socket, credentials.pid, Some(patience));
    control.joined = Some(follow.clone());
    Ok(())
}
