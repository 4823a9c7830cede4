//! How the module is linked, and what it knows about its own build.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    match env::var("CARGO_CFG_TARGET_OS").as_deref() {
        // PUC Lua unloads modules when a state closes, while our threads may still run: stay loaded. Elsewhere
        // src/lua/process sees to this.
        Ok("linux") => println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete"),
        // The functions of Lua's C API are the interpreter's own.
        Ok("macos") => println!("cargo:rustc-cdylib-link-arg=-Wl,-undefined,dynamic_lookup"),
        _ => {}
    }
    for name in ["TARGET", "PROFILE"] {
        println!("cargo:rustc-env=BUILD_{name}={}", variable(name));
    }
    println!("cargo:rustc-env=BUILD_RUSTC={}", rustc_version());
}

/// A variable that cargo sets for build scripts.
fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The version of the compiler, as in `rustc 1.88.0 (6b00bc388 2025-06-23)`, without the word `rustc`.
fn rustc_version() -> String {
    let output = Command::new(variable("RUSTC"))
        .arg("--version")
        .output()
        .expect("rustc runs");
    let line = String::from_utf8(output.stdout).expect("rustc prints UTF-8");
    line.trim().trim_start_matches("rustc ").to_owned()
}
