//! How the module is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // PUC Lua unloads modules when a state closes, while our threads may still run: stay loaded.
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
