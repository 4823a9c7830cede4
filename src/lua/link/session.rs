//! The methods of a link about its session: settings, counters and keep alive.

use super::{Answer, Live, LuaLink, Returned};
use crate::lua::args::{Args, settings_from_lua};
use crate::lua::results::{Results, set};
use crate::lua::stack::Stack;
use crate::session::Stats;

/// `configure(settings)`: sets the settings, see [`settings_from_lua`]. Returns true.
pub(super) fn configure(arguments: &Stack) -> Answer<bool> {
    let this = LuaLink::of(arguments)?;
    let settings = arguments.value(2)?;
    let configure = || {
        let settings = settings_from_lua(&Args::new(settings.table(&"settings")?))?;
        this.live()?.link.configure(settings);
        Ok(true)
    };
    Ok(configure())
}

/// `stats()`: a table of the session's counters. In the child of a fork they are 0.
pub(super) fn stats(arguments: &Stack) -> Returned<LinkStats> {
    let live = LuaLink::of(arguments)?.live();
    Ok(live.map_or_else(
        |_| LinkStats::default(),
        |Live { link, .. }| LinkStats {
            counted: link.stats(),
            tls_version: link.tls_version(),
        },
    ))
}

/// The results of `stats`.
#[derive(Default)]
pub(super) struct LinkStats {
    counted: Stats,
    tls_version: Option<&'static str>,
}

impl Results for LinkStats {
    fn push(&self, to: &Stack) {
        let counted = &self.counted;
        to.push_table();
        for (name, count) in [
            ("messages_sent", counted.messages_sent),
            ("messages_received", counted.messages_received),
            ("bytes_sent", counted.bytes_sent),
            ("bytes_received", counted.bytes_received),
            ("in_flight", counted.in_flight as u64),
            ("queued", counted.queued as u64),
            ("queued_bytes", counted.queued_bytes as u64),
            ("dropped", counted.dropped),
            ("reconnects", counted.connections.saturating_sub(1)),
        ] {
            set(to, name, |to| to.push_count(count));
        }
        let round_trip = counted.ping_round_trip;
        set(to, "ping_round_trip", |to| {
            round_trip.map(|time| time.as_secs_f64()).push(to);
        });
        set(to, "tls_version", |to| self.tls_version.push(to));
    }
}

/// `deadline()`: the seconds until keep alive has work to do, or nil; and whether the client gives up the server then.
pub(super) fn deadline(arguments: &Stack) -> Returned<(Option<f64>, bool)> {
    let Ok(Live { link, .. }) = LuaLink::of(arguments)?.live() else {
        return Ok((None, false));
    };
    let (left, is_given_up) = link.deadline();
    Ok((left.map(|left| left.as_secs_f64()), is_given_up))
}
