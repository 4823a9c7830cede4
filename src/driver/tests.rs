//! The driver against a server of our own on loopback.
