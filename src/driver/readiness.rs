//! Decides who is told of news: whether a link is on the list of ready links, and whether its descriptor is readable.
//! The link's mutex guards it. The crate `models` tries this file in all thread orders.

/// The work of a link that has news.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct News {
    /// Whether to put the link on the list of ready links.
    pub(super) list: bool,
    /// Whether to make the descriptor readable.
    pub(super) raise: bool,
}

pub(super) struct Readiness {
    /// The link is on the list of ready links, or Lua is taking its events.
    ready: bool,
    /// Lua drives for this link, and will look for events afterwards.
    stepping: bool,
    /// Lua has been told that there is no event, and has not come back.
    is_left: bool,
    /// An event loop has asked for the descriptor.
    is_waited_on: bool,
    /// The descriptor is readable.
    raised: bool,
}

impl Readiness {
    pub(super) fn new() -> Self {
        Self {
            ready: false,
            stepping: false,
            is_left: true,
            is_waited_on: false,
            raised: false,
        }
    }

    /// An event loop asks for the descriptor. Before that, the descriptor is never made readable.
    pub(super) fn wait_on(&mut self) {
        self.is_waited_on = true;
    }

    /// Lua is about to drive for this link. Returns whether to drive even if the caretaker does. An event loop that
    /// waits on descriptors comes when bytes have arrived: that is faster than the caretaker first and Lua after it.
    pub(super) fn step(&mut self) -> bool {
        self.stepping = true;
        self.is_waited_on
    }

    /// Lua asks for the next event.
    pub(super) fn ask(&mut self) {
        self.stepping = false;
        self.is_left = false;
    }

    /// Lua has seen that there is no event. Returns whether to clear the descriptor.
    pub(super) fn emptied(&mut self) -> bool {
        self.ready = false;
        self.is_left = true;
        std::mem::take(&mut self.raised)
    }

    /// The link has an event for Lua.
    pub(super) fn news(&mut self) -> News {
        News {
            list: !std::mem::replace(&mut self.ready, true),
            raise: !self.stepping && self.raise(),
        }
    }

    /// The link has bytes to write. Returns whether to make the descriptor readable. Unless the caretaker `is_driving`,
    /// Lua is to drive: an event loop that waits on the descriptor comes sooner than the caretaker.
    pub(super) fn transmit(&mut self, is_driving: bool) -> bool {
        self.is_left && !is_driving && self.raise()
    }

    /// Calls the event loop that waits on the descriptor. Returns whether to make the descriptor readable: it was not
    /// before.
    pub(super) fn raise(&mut self) -> bool {
        self.is_waited_on && !std::mem::replace(&mut self.raised, true)
    }
}
