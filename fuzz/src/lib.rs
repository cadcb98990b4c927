//! What the fuzz targets share: the budget of an input, in memory and in time. libFuzzer looks at the memory of the whole
//! process once a second, which is too coarse for a decoder that asks for a gigabyte and gives it back, and its `-timeout` is
//! of the clock on the wall, which says little on a busy machine; it remains for what has no end.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::time::{ClockId, clock_gettime};

/// Seconds of a processor that an input may cost, in a build that is several times as slow as a release.
const SECONDS: i64 = 2;

/// Bytes that are allocated now, by all threads.
static LIVE: AtomicUsize = AtomicUsize::new(0);
/// Bytes that may be allocated.
static MOST: AtomicUsize = AtomicUsize::new(usize::MAX);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both exist while the bytes are moved, but a buffer that grows is not to pay for that twice.
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        take(size);
        unsafe { System.realloc(block, layout, size) }
    }
}

fn take(size: usize) {
    let live = LIVE.fetch_add(size, Ordering::Relaxed) + size;
    let most = MOST.load(Ordering::Relaxed);
    // A panic is a finding of its own, and telling of it takes memory.
    if live > most && !std::thread::panicking() {
        // The message needs memory, too.
        MOST.store(usize::MAX, Ordering::Relaxed);
        eprintln!(
            "this input costs more memory than its budget: {live} bytes in use where {most} may be"
        );
        std::process::abort();
    }
}

/// Deals with an input that may cost so many bytes of memory at a time, and [`SECONDS`]; more ends the process, which libFuzzer
/// counts as a finding.
pub fn within(bytes: usize, deal: impl FnOnce()) {
    MOST.store(
        LIVE.load(Ordering::Relaxed).saturating_add(bytes),
        Ordering::Relaxed,
    );
    let begun = clock_gettime(ClockId::ProcessCPUTime);
    deal();
    MOST.store(usize::MAX, Ordering::Relaxed);
    let taken = clock_gettime(ClockId::ProcessCPUTime) - begun;
    assert!(
        taken.tv_sec < SECONDS,
        "this input costs more time than its budget: {taken:?} of a processor"
    );
}

/// The budget of what keeps nothing but its input: a fixed part for tables and buffers, and some bytes for each byte.
pub const fn budget(fixed: usize, each: usize, input: &[u8]) -> usize {
    fixed.saturating_add(each.saturating_mul(input.len()))
}

/// A mebibyte.
pub const MIB: usize = 1 << 20;
