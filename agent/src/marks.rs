//! The probes: one function each, whose only instruction is the place for a breakpoint, and the note that describes it.
//!
//! The functions are naked, so the arguments stand where the calling convention puts them, there is exactly one site for
//! each probe, and a note can say so without asking the compiler. The semaphore (16 bits, raised by whoever attaches) is
//! looked at by the callers, before they gather anything.

use core::arch::naked_asm;
use core::ffi::c_char;
use core::sync::atomic::{AtomicU16, Ordering};

/// Flag of an entry or return: a generator or coroutine is resumed or suspended.
pub(crate) const SUSPENSION: u64 = 1;
/// Flag of an entry: the frame was running when the session began.
pub(crate) const ANNOUNCED: u64 = 2;
/// Flag of a return: an exception leaves the frame.
pub(crate) const EXCEPTION: u64 = 4;
/// Flags of an entry or return: file name, name or qualified name is a beginning only.
pub(crate) const CUT_FILE: u64 = 8;
pub(crate) const CUT_NAME: u64 = 16;
pub(crate) const CUT_QUALNAME: u64 = 32;

/// A mark's semaphore.
#[repr(transparent)]
pub(crate) struct Semaphore(AtomicU16);

impl Semaphore {
    /// Whether somebody listens.
    #[inline(always)]
    pub(crate) fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }
}

/// A mark of functions.
pub(crate) type Function =
    unsafe extern "C" fn(*const c_char, *const c_char, i32, *const c_char, u64, u64, *const c_char);

/// A mark and its semaphore. `.stapsdt.base` is there for prelink, and kept by the linker for its own sake.
macro_rules! mark {
    ($(#[$doc:meta])* $function:ident, $semaphore:ident, $name:literal, $x86:literal, $arm:literal,
     ($($argument:ident: $type:ty),*)) => {
        #[unsafe(link_section = ".probes")]
        #[unsafe(export_name = concat!("pystap_", $name, "_semaphore"))]
        pub(crate) static $semaphore: Semaphore = Semaphore(AtomicU16::new(0));

        $(#[$doc])*
        #[unsafe(naked)]
        pub(crate) unsafe extern "C" fn $function($($argument: $type),*) {
            naked_asm!(
                "990: nop",
                "ret",
                ".pushsection .note.stapsdt,\"\",\"note\"",
                ".balign 4",
                ".4byte 992f-991f, 994f-993f, 3",
                "991: .asciz \"stapsdt\"",
                "992: .balign 4",
                "993: .8byte 990b",
                ".8byte _.stapsdt.base",
                ".8byte {semaphore}",
                ".asciz \"pystap\"",
                concat!(".asciz \"", $name, "\""),
                #[cfg(target_arch = "x86_64")]
                concat!(".asciz \"", $x86, "\""),
                #[cfg(target_arch = "aarch64")]
                concat!(".asciz \"", $arm, "\""),
                "994: .balign 4",
                ".popsection",
                ".ifndef _.stapsdt.base",
                ".pushsection .stapsdt.base,\"aGR\",\"progbits\",.stapsdt.base,comdat",
                ".weak _.stapsdt.base",
                ".hidden _.stapsdt.base",
                "_.stapsdt.base: .space 1",
                ".size _.stapsdt.base, 1",
                ".popsection",
                ".endif",
                semaphore = sym $semaphore,
            )
        }
    };
}

mark!(
    /// A frame goes onto the stack. Strings end with NUL; `text` may be null.
    function_entry, FUNCTION_ENTRY, "function__entry",
    "8@%rdi 8@%rsi -4@%edx 8@%rcx 8@%r8 8@%r9 8@8(%rsp)",
    "8@x0 8@x1 -4@w2 8@x3 8@x4 8@x5 8@x6",
    (filename: *const c_char, name: *const c_char, line: i32, qualname: *const c_char, context: u64, flags: u64,
     text: *const c_char)
);
mark!(
    /// A frame leaves the stack.
    function_return, FUNCTION_RETURN, "function__return",
    "8@%rdi 8@%rsi -4@%edx 8@%rcx 8@%r8 8@%r9 8@8(%rsp)",
    "8@x0 8@x1 -4@w2 8@x3 8@x4 8@x5 8@x6",
    (filename: *const c_char, name: *const c_char, line: i32, qualname: *const c_char, context: u64, flags: u64,
     text: *const c_char)
);
mark!(
    /// A garbage collection begins.
    gc_start, GC_START, "gc__start", "-4@%edi", "-4@w0", (generation: i32)
);
mark!(
    /// It ends; so many objects were collected.
    gc_done, GC_DONE, "gc__done", "-8@%rdi", "-8@x0", (collected: i64)
);
mark!(
    /// What a context is called, before its first event.
    context_name, CONTEXT_NAME, "context__name", "8@%rdi 8@%rsi", "8@x0 8@x1", (context: u64, text: *const c_char)
);
