//! The session against a simulated server, over a simulated link, by a clock that the test moves.

mod authentication;
mod connection;
mod cuts;
mod hostile;
mod keep_alive;
mod leaving;
mod model;
mod pair;
mod publishing;
mod receiving;
mod refusals;
mod resuming;
