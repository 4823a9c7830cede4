//! Who is told what, when: whether a link is on the list of ready links, and whether its descriptor is readable. Part of
//! what the link's mutex guards. The crate `models` takes every way through it.

/// What a link with news has to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct News {
    /// To put itself on the list of ready links.
    pub(super) list: bool,
    /// To make its descriptor readable.
    pub(super) raise: bool,
}

pub(super) struct Readiness {
    /// On the list of ready links, or being emptied by Lua.
    ready: bool,
    /// Lua drives for this link, and will look at what comes of it.
    stepping: bool,
    /// Lua has been told that there is nothing, and has not come back.
    is_left: bool,
    /// Somebody has asked for the descriptor.
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

    /// Somebody asks for the descriptor. Before, it is never to be readable.
    #[cfg(unix)]
    pub(super) fn wait_on(&mut self) {
        self.is_waited_on = true;
    }

    /// Lua is about to drive for this link. Returns whether to drive even if the caretaker does: whoever waits on
    /// descriptors comes when something has arrived, and is faster than the caretaker and then Lua.
    pub(super) fn step(&mut self) -> bool {
        self.stepping = true;
        self.is_waited_on
    }

    /// Lua asks for the next event.
    pub(super) fn ask(&mut self) {
        self.stepping = false;
        self.is_left = false;
    }

    /// Lua has seen that there is nothing. Returns whether to clear the descriptor.
    pub(super) fn emptied(&mut self) -> bool {
        self.ready = false;
        self.is_left = true;
        std::mem::take(&mut self.raised)
    }

    /// There is something for Lua.
    pub(super) fn news(&mut self) -> News {
        News {
            list: !std::mem::replace(&mut self.ready, true),
            raise: !self.stepping && self.raise(),
        }
    }

    /// There is something to write. Returns whether to make the descriptor readable: unless the caretaker `is_driving`,
    /// Lua is to drive, and whoever waits on the descriptor comes sooner than the caretaker.
    pub(super) fn transmit(&mut self, is_driving: bool) -> bool {
        self.is_left && !is_driving && self.raise()
    }

    /// Whoever waits on the descriptor is to come. Returns whether to make it readable, which it was not before.
    pub(super) fn raise(&mut self) -> bool {
        self.is_waited_on && !std::mem::replace(&mut self.raised, true)
    }
}
