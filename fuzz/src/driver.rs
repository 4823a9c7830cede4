//! Of the driver only what a session has to do with a store.

#[path = "../../src/driver/store.rs"]
pub mod store;
