//! The processor's counter of time, which is read without a system call and without the kernel's help.

/// What it says now. It counts with one rate, and alike on all processors, only where the kernel says so; ask it first.
#[inline(always)]
pub fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reads a counter; where a process may not do that, nobody asks for it.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(target_arch = "aarch64")]
    {
        let ticks: u64;
        // SAFETY: reads a register.
        unsafe {
            core::arch::asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nostack, nomem, preserves_flags));
        }
        ticks
    }
}

/// The clock source of the kernel that is this counter.
pub const CLOCK_SOURCE: &str = if cfg!(target_arch = "x86_64") {
    "tsc"
} else {
    "arch_sys_counter"
};
