//! Tells the linker how to lay out the program.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = |key: &str| std::env::var(format!("CARGO_CFG_TARGET_{key}")).unwrap_or_default();
    if target("OS") == "linux" && target("ENV") == "gnu" {
        // The addresses that the loader fills in are 370 KB, or 10 KB packed. Needs glibc 2.36, as Debian 12 has it; linkers
        // that do not know the option pass over it.
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
