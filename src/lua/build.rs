//! What the module knows about its own build, for reports of bugs.

use super::stack::Stack;

/// The version of the library: Cargo.toml's is the only one that is written down.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The optional features that are built in, named as in Cargo.toml.
const FEATURES: [(&str, bool); 3] = [
    ("tls", cfg!(feature = "tls")),
    ("websocket", cfg!(feature = "websocket")),
    ("store", cfg!(feature = "store")),
];

/// The Lua that the module is for, named as in `make build LUA=5.4`.
const LUA: &str = if cfg!(feature = "luajit") {
    "jit"
} else if cfg!(feature = "lua51") {
    "5.1"
} else if cfg!(feature = "lua52") {
    "5.2"
} else if cfg!(feature = "lua53") {
    "5.3"
} else if cfg!(feature = "lua54") {
    "5.4"
} else {
    "5.5"
};

/// Adds the table `build` to `mqtt.core`.
pub(super) fn register(core: &Stack) {
    let features: Vec<&str> = FEATURES
        .iter()
        .filter(|(_, is_built_in)| *is_built_in)
        .map(|(name, _)| *name)
        .collect();
    core.push_bytes(b"build");
    core.push_table();
    for (name, value) in [
        ("version", VERSION),
        ("target", env!("BUILD_TARGET")),
        ("features", &features.join(" ")),
        ("rustc", env!("BUILD_RUSTC")),
        ("profile", env!("BUILD_PROFILE")),
        ("lua", LUA),
    ] {
        core.push_bytes(name.as_bytes());
        core.push_bytes(value.as_bytes());
        core.set();
    }
    core.set();
}
