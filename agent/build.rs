//! A build id for the library, by which pystap knows its own, whatever the linker does by default.

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,--build-id=sha1");
    println!("cargo::rerun-if-changed=build.rs");
}
