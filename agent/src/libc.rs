//! The functions of the C library that are called by name; system calls go through rustix. Declared here and not taken
//! from the libc crate, because that one asks the linker for `-lc`, and with it for the versions of the machine that
//! builds. Without versions the dynamic linker takes the oldest one that a name has, which for all of these is the same
//! function.

use core::ffi::{c_char, c_int, c_long, c_ulong, c_void};

/// `pthread_t`.
pub(crate) type Thread = c_ulong;

/// `pthread_attr_t`: 56 bytes on 64-bit x86, 64 on aarch64, with glibc and musl.
#[repr(C, align(8))]
pub(crate) struct ThreadAttributes([u8; 64]);

impl ThreadAttributes {
    pub(crate) const NONE: ThreadAttributes = ThreadAttributes([0; 64]);
}

/// `sigset_t`.
#[repr(C, align(8))]
pub(crate) struct Signals(pub(crate) [u8; 128]);

/// `struct timespec`.
#[repr(C)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: i64,
}

/// `CLOCK_MONOTONIC`.
pub(crate) const MONOTONIC: c_int = 1;

/// `struct ucred`. The process id is 0 for a peer in another pid namespace that is not below ours.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Credentials {
    pub(crate) pid: c_int,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// `SOL_SOCKET` and `SO_PEERCRED`.
pub(crate) const PEER_CREDENTIALS: (c_int, c_int) = (1, 17);

/// `PTHREAD_CREATE_DETACHED`.
pub(crate) const DETACHED: c_int = 1;

/// `SYS_tgkill`.
#[cfg(target_arch = "x86_64")]
pub(crate) const TGKILL: c_long = 234;
#[cfg(target_arch = "aarch64")]
pub(crate) const TGKILL: c_long = 131;

/// `SYS_prctl`.
#[cfg(target_arch = "x86_64")]
pub(crate) const PRCTL: c_long = 157;

/// `SIG_SETMASK`.
pub(crate) const SET_MASK: c_int = 2;

#[allow(dead_code)] // The allocator's are used where there is no std.
unsafe extern "C" {
    pub(crate) fn malloc(size: usize) -> *mut c_void;
    pub(crate) fn realloc(block: *mut c_void, size: usize) -> *mut c_void;
    pub(crate) fn free(block: *mut c_void);
    pub(crate) fn posix_memalign(block: *mut *mut c_void, align: usize, size: usize) -> c_int;
    pub(crate) fn abort() -> !;
    pub(crate) fn syscall(number: c_long, ...) -> c_long;
    pub(crate) fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    pub(crate) fn clock_gettime(clock: c_int, time: *mut Time) -> c_int;
    pub(crate) fn getsockopt(
        socket: c_int,
        level: c_int,
        option: c_int,
        value: *mut Credentials,
        size: *mut u32,
    ) -> c_int;
    pub(crate) fn pthread_create(
        thread: *mut Thread,
        attributes: *const ThreadAttributes,
        start: unsafe extern "C" fn(*mut c_void) -> *mut c_void,
        argument: *mut c_void,
    ) -> c_int;
    pub(crate) fn pthread_key_create(
        key: *mut u32,
        at_end: Option<unsafe extern "C" fn(*mut c_void)>,
    ) -> c_int;
    pub(crate) fn pthread_setspecific(key: u32, value: *const c_void) -> c_int;
    pub(crate) fn pthread_getspecific(key: u32) -> *mut c_void;
    pub(crate) fn pthread_attr_init(attributes: *mut ThreadAttributes) -> c_int;
    pub(crate) fn pthread_attr_setdetachstate(
        attributes: *mut ThreadAttributes,
        state: c_int,
    ) -> c_int;
    pub(crate) fn pthread_attr_setstacksize(
        attributes: *mut ThreadAttributes,
        size: usize,
    ) -> c_int;
    pub(crate) fn pthread_attr_destroy(attributes: *mut ThreadAttributes) -> c_int;
    pub(crate) fn pthread_sigmask(how: c_int, set: *const Signals, before: *mut Signals) -> c_int;
}

/// Nanoseconds of a clock that only goes forward.
pub(crate) fn monotonic() -> i64 {
    let mut time = Time {
        seconds: 0,
        nanoseconds: 0,
    };
    // SAFETY: writes to a local.
    unsafe { clock_gettime(MONOTONIC, &raw mut time) };
    time.seconds
        .wrapping_mul(1_000_000_000)
        .wrapping_add(time.nanoseconds)
}
