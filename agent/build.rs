//! How the library is linked: with a build id, by which pystap knows its own, whatever the linker does by default; and with
//! its writable data in one segment. With a segment of its own for what becomes read-only, both may be mapped from one page
//! of the file, and the kernel, which knows a semaphore by its place in the file, raises it in the first of the two. The code
//! stands in the file where it stands in memory, because SystemTap takes that for granted: where it is not so, it puts its
//! breakpoints into the midst of other instructions (seen with 5.6). GNU ld does so by itself and ignores the option of lld.

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,--build-id=sha1");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,norelro");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,separate-loadable-segments");
    println!("cargo::rerun-if-changed=build.rs");
}
