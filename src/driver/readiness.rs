//! Whether Lua has been told that a link has something for it. It is part of what the link's mutex guards. The crate
//! `models` takes every way through it.

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
    /// The descriptor is readable.
    raised: bool,
}

impl Readiness {
    pub(super) fn new() -> Self {
        Self {
            ready: false,
            stepping: false,
            is_left: true,
            raised: false,
        }
    }

    /// Lua is about to drive for this link.
    pub(super) fn step(&mut self) {
        self.stepping = true;
    }

    /// Lua asks for the next event.
    pub(super) fn ask(&mut self) {
        self.stepping = false;
        self.is_left = false;
    }

    /// Lua has seen that there is nothing. Returns whether the descriptor is to be cleared.
    pub(super) fn set_emptied(&mut self) -> bool {
        self.ready = false;
        self.is_left = true;
        std::mem::take(&mut self.raised)
    }

    /// There is something for Lua.
    pub(super) fn news(&mut self) -> News {
        News {
            list: !std::mem::replace(&mut self.ready, true),
            raise: !self.stepping,
        }
    }

    /// Whether Lua, which has been told that there is nothing, should come and drive if the caretaker does not.
    pub(super) fn is_left(&self) -> bool {
        self.is_left
    }

    /// The descriptor, which there is, is to be readable. Returns whether it was not so before.
    pub(super) fn raise(&mut self) -> bool {
        !std::mem::replace(&mut self.raised, true)
    }
}
