//! How the library is linked: with a build id, by which pystap knows its own, whatever the linker does by default; and with
//! its writable data in one segment. With a segment of its own for what becomes read-only, both may be mapped from one page
//! of the file, and the kernel, which knows a semaphore by its place in the file, raises it in the first of the two.

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,--build-id=sha1");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,norelro");
    println!("cargo::rerun-if-changed=build.rs");
}
