//! What a stopped thread of an x86-64 machine has in its registers, and the signal frame that restores it: the kernel's
//! `struct rt_sigframe` (arch/x86/include/asm/sigframe.h), which is part of its ABI.
//!
//! Uses `unsafe`, as there is no safe binding for these: two ptrace requests that fill our memory, and the CPU's
//! description of how it lays out its state.

#![allow(unsafe_code)]

use std::arch::x86_64::__cpuid_count;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace;
use nix::unistd::Pid;

use super::WindowError;

pub(super) type Registers = libc::user_regs_struct;

/// `__USER_CS`.
pub(super) const CODE_64: u64 = 0x33;
/// The instruction.
pub(super) const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// Flags that must be clear on entry to a function.
pub(super) const DIRECTION_AND_TRAP: u64 = 0x400 | 0x100;

/// `NT_X86_XSTATE` of linux/elf.h, and `PTRACE_GETSIGMASK` of linux/ptrace.h.
const XSTATE: usize = 0x202;
const GET_SIGNAL_MASK: u32 = 0x420a;
/// The largest state of any current CPU is 11 KB (with AMX).
const LARGEST: usize = 16 << 10;
/// The part that every CPU has, and the header after it.
const LEGACY: usize = 512 + 64;
/// `offsetof(struct _fpx_sw_bytes)` in the legacy part, where ptrace stores the features that the kernel knows.
const SOFTWARE: usize = 464;
/// AMX tiles (features 17 and 18), for which a thread has room only once it has used them.
const TILES: u64 = 3 << 17;
/// `FP_XSTATE_MAGIC1`, `FP_XSTATE_MAGIC2`.
const MAGIC: [u32; 2] = [0x4650_5853, 0x4650_5845];
/// `UC_FP_XSTATE`, `UC_SIGCONTEXT_SS`, `UC_STRICT_RESTORE_SS`.
const FLAGS: u64 = 1 | 2 | 4;
/// Not a valid `ss_flags`: the kernel leaves the alternate stack as it is.
const NO_STACK: u64 = 0x10;
/// How much a function may use below the stack pointer.
const RED_ZONE: u64 = 128;
/// `struct rt_sigframe`: return address, `struct ucontext`, and `siginfo_t`, which stays empty.
const FRAME: usize = 8 + 304 + 128;

/// Everything that a thread has in registers, and the signals that it blocks.
pub(super) struct State {
    pub(super) registers: Registers,
    /// In the format of `XSAVE`.
    extended: Vec<u8>,
    /// The features contained in it.
    features: u64,
    mask: u64,
}

impl State {
    /// The state of a thread that we have stopped.
    pub(super) fn of(thread: Pid) -> Result<State, WindowError> {
        let failed = |errno: Errno| WindowError::Stop(errno.desc().to_owned());
        let registers = ptrace::getregs(thread).map_err(failed)?;
        let mut extended = vec![0_u8; LARGEST];
        let mut piece = libc::iovec {
            iov_base: extended.as_mut_ptr().cast(),
            iov_len: extended.len(),
        };
        // SAFETY: the kernel writes at most `iov_len` bytes to memory that is ours and outlives the call.
        let got = unsafe {
            libc::ptrace(
                libc::PTRACE_GETREGSET,
                thread.as_raw(),
                XSTATE,
                &raw mut piece,
            )
        };
        Errno::result(got).map_err(failed)?;
        let mut mask = 0_u64;
        // SAFETY: the kernel writes eight bytes, which is the size of the variable.
        let got = unsafe {
            libc::ptrace(
                GET_SIGNAL_MASK,
                thread.as_raw(),
                size_of::<u64>(),
                &raw mut mask,
            )
        };
        Errno::result(got).map_err(failed)?;
        let word = |at: usize| {
            let bytes = extended.get(at..at + 8).and_then(<[u8]>::first_chunk);
            u64::from_ne_bytes(bytes.copied().unwrap_or_default())
        };
        let used = word(512);
        let mut features = word(SOFTWARE);
        if used & TILES == 0 {
            features &= !TILES;
        }
        let size = size_of_features(features);
        if piece.iov_len < size || size > LARGEST {
            return Err(WindowError::Stop(
                "its vector registers cannot be read".to_owned(),
            ));
        }
        extended.truncate(size);
        Ok(State {
            registers,
            extended,
            features,
            mask,
        })
    }
}

/// How many bytes this CPU needs for the state of these features.
fn size_of_features(features: u64) -> usize {
    (2..63)
        .filter(|feature| features & (1 << feature) != 0)
        .map(|feature| {
            // SAFETY: every CPU with XSAVE, whose state the kernel has just given us, has this leaf.
            #[allow(unused_unsafe)]
            let it = unsafe { __cpuid_count(0xd, feature) };
            (it.eax + it.ebx) as usize
        })
        .fold(LEGACY, usize::max)
}

/// A signal frame, and where to write it.
pub(super) struct Frame {
    /// The stack pointer for entering a function that returns into it.
    pub(super) at: u64,
    /// Address of the text.
    pub(super) text: u64,
    pub(super) bytes: Vec<u8>,
}

/// The frame below the stack of these registers from which `rt_sigreturn` restores them, containing a NUL-terminated
/// text.
pub(super) fn frame(registers: &Registers, state: &State, restorer: u64, text: &[u8]) -> Frame {
    let top = registers.rsp - RED_ZONE;
    let text_at = (top - text.len() as u64 - 1) & !15;
    let size = state.extended.len();
    // The second magic number follows it.
    let extended_at = (text_at - size as u64 - 4) & !63;
    // As after a call.
    let at = ((extended_at - FRAME as u64) & !15) - 8;

    let mut words: Vec<u64> = vec![restorer, FLAGS, 0];
    words.extend([0, NO_STACK, 0]);
    let it = registers;
    words.extend([it.r8, it.r9, it.r10, it.r11, it.r12, it.r13, it.r14, it.r15]);
    words.extend([it.rdi, it.rsi, it.rbp, it.rbx, it.rdx, it.rax, it.rcx]);
    words.extend([it.rsp, it.rip, it.eflags]);
    words.push((it.cs & 0xffff) | (it.ss & 0xffff) << 48);
    // Error, trap, old mask and fault address say why a signal came; none did.
    words.extend([0, 0, 0, 0, extended_at]);
    words.extend([0; 8]);
    words.push(state.mask);
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    debug_assert_eq!(bytes.len(), 8 + 304);

    let mut extended = state.extended.clone();
    let [first, second] = MAGIC;
    let mut software = Vec::with_capacity(48);
    software.extend(first.to_ne_bytes());
    software.extend((size as u32 + 4).to_ne_bytes());
    software.extend(state.features.to_ne_bytes());
    software.extend((size as u32).to_ne_bytes());
    software.resize(48, 0);
    if let Some(room) = extended.get_mut(SOFTWARE..SOFTWARE + 48) {
        room.copy_from_slice(&software);
    }
    extended.extend(second.to_ne_bytes());

    let mut put = |at_last: u64, more: &[u8]| {
        bytes.resize((at_last - at) as usize, 0);
        bytes.extend(more);
    };
    put(extended_at, &extended);
    put(text_at, text);
    bytes.push(0);
    Frame {
        at,
        text: text_at,
        bytes,
    }
}
