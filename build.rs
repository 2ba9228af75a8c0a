//! cargo-pgrx reads the functions marked #[pg_test] from a section of the library that nothing refers to. The linker is
//! to keep it, for these tests only. cargo-pgrx would pass the same to every crate, which compiles all of them anew.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_PG_TEST").is_some() {
        println!("cargo::rustc-cdylib-link-arg=-Wl,--no-gc-sections");
    }
}
