//! Whether a program should wait before it sends more, and whether the task reads on. There is no session, clock or
//! runtime here: the caller reports the session's load.

/// Bytes waiting to be written above which a link is full.
const FULL: usize = 1 << 20;
/// Bytes waiting to be written below which a full link has room again.
const ROOM: usize = FULL / 4;

/// The load of the session at one moment.
#[derive(Clone, Copy)]
pub(super) struct Load {
    /// Bytes that the task (or, without a task, the connector) has not taken yet.
    pub(super) transmit: usize,
    /// Bytes of requests that the server has not answered.
    pub(super) stored: usize,
    /// The most bytes of such requests.
    pub(super) most_stored: usize,
}

impl Load {
    fn stores_much(self) -> bool {
        self.stored > self.most_stored / 2
    }
}

#[derive(Default)]
pub(super) struct Flow {
    /// Bytes that the task has taken from the session and not yet written.
    unwritten: usize,
    /// More than `FULL` bytes waited to be written, and there is not yet `ROOM` again.
    full: bool,
    /// A program waits until the session holds nothing back.
    draining: bool,
    /// The task does not read, because the session wants nothing more.
    reading_paused: bool,
}

impl Flow {
    pub(super) fn has_unwritten(&self) -> bool {
        self.unwritten > 0
    }

    /// Bytes that wait to be written or acknowledged.
    pub(super) fn outgoing(&self, load: Load) -> usize {
        self.backlog(load) + load.stored
    }

    /// Whether the program should wait before it sends more. A connection that is `over` is never full, because it
    /// sends nothing more.
    pub(super) fn is_full(&mut self, load: Load, over: bool) -> bool {
        let much = self.backlog(load) > FULL || load.stores_much();
        self.full = !over && (much || self.full && !self.has_room(load));
        self.full
    }

    /// A program asks whether the session `holds_back` packets. If so, it waits.
    pub(super) fn drain(&mut self, holds_back: bool) -> bool {
        self.draining = holds_back;
        holds_back
    }

    /// The task has reported its written bytes, and has `unwritten` bytes left. Returns whether to wake a program that
    /// waits for room, or for the session to hold nothing back. A `slow` program waits for room in vain: it has to take
    /// events first.
    pub(super) fn exchanged(
        &mut self,
        unwritten: usize,
        load: Load,
        slow: bool,
        holds_back: bool,
    ) -> bool {
        self.unwritten = unwritten;
        let was_full = self.full;
        self.full = was_full && !self.has_room(load);
        let was_draining = self.draining;
        self.draining = was_draining && holds_back;
        was_full && (!self.full || slow) || was_draining && !self.draining
    }

    /// The task asks whether to read on. It pauses if the session wants nothing more.
    pub(super) fn read(&mut self, wants: bool) -> bool {
        self.reading_paused = !wants;
        wants
    }

    /// Whether a paused task is to read on, because the session wants more again.
    pub(super) fn resumes_reading(&mut self, wants: impl FnOnce() -> bool) -> bool {
        let resumes = self.reading_paused && wants();
        self.reading_paused &= !resumes;
        resumes
    }

    /// Bytes that wait to be written.
    fn backlog(&self, load: Load) -> usize {
        self.unwritten + load.transmit
    }

    fn has_room(&self, load: Load) -> bool {
        self.backlog(load) <= ROOM && !load.stores_much()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Load = Load {
        transmit: 0,
        stored: 0,
        most_stored: 1000,
    };

    fn transmit(bytes: usize) -> Load {
        Load {
            transmit: bytes,
            ..NOTHING
        }
    }

    fn stored(bytes: usize) -> Load {
        Load {
            stored: bytes,
            ..NOTHING
        }
    }

    /// An exchange while the program takes its events and the session holds nothing back.
    fn exchange(flow: &mut Flow, unwritten: usize, load: Load) -> bool {
        flow.exchanged(unwritten, load, false, false)
    }

    #[test]
    fn a_link_is_full_from_the_one_limit_down_to_the_other() {
        let mut flow = Flow::default();
        assert!(!flow.is_full(transmit(FULL), false));
        assert!(flow.is_full(transmit(FULL + 1), false));
        assert!(flow.is_full(transmit(ROOM + 1), false));
        assert!(!flow.is_full(transmit(ROOM), false));
        assert!(!flow.is_full(transmit(ROOM + 1), false));
    }

    #[test]
    fn what_the_task_has_taken_counts_until_it_is_written() {
        let mut flow = Flow::default();
        exchange(&mut flow, FULL, NOTHING);
        assert!(flow.has_unwritten());
        assert!(!flow.is_full(NOTHING, false));
        assert!(flow.is_full(transmit(1), false));
        assert_eq!(flow.outgoing(stored(3)), FULL + 3);
        exchange(&mut flow, 0, NOTHING);
        assert!(!flow.has_unwritten());
        assert_eq!(flow.outgoing(NOTHING), 0);
    }

    #[test]
    fn requests_without_an_answer_make_full_above_half_of_what_there_may_be() {
        let mut flow = Flow::default();
        assert!(!flow.is_full(stored(500), false));
        assert!(flow.is_full(stored(501), false));
        assert!(!flow.is_full(stored(500), false));
    }

    #[test]
    fn a_connection_that_is_over_is_not_full_and_was_not() {
        let mut flow = Flow::default();
        assert!(flow.is_full(transmit(FULL + 1), false));
        assert!(!flow.is_full(transmit(FULL + 1), true));
        assert!(!flow.is_full(transmit(FULL), false));
    }

    #[test]
    fn whoever_waits_for_room_is_woken_once_when_there_is_some() {
        let mut flow = Flow::default();
        assert!(!exchange(&mut flow, 0, NOTHING), "nobody waits");
        assert!(flow.is_full(transmit(FULL + 1), false));
        assert!(!exchange(&mut flow, FULL, NOTHING));
        assert!(!exchange(&mut flow, 0, stored(501)));
        assert!(exchange(&mut flow, ROOM, stored(500)));
        assert!(!exchange(&mut flow, 0, NOTHING));
    }

    #[test]
    fn whoever_waits_for_room_in_vain_is_woken_each_time() {
        let mut flow = Flow::default();
        assert!(flow.is_full(transmit(FULL + 1), false));
        for _ in 0..2 {
            assert!(flow.exchanged(FULL, NOTHING, true, false));
        }
        assert!(flow.is_full(transmit(1), false));
    }

    #[test]
    fn whoever_waits_for_the_session_is_woken_once_when_it_holds_nothing_back() {
        let mut flow = Flow::default();
        assert!(!flow.drain(false));
        assert!(!exchange(&mut flow, 0, NOTHING), "nobody waits");
        assert!(flow.drain(true));
        let mut exchange = |holds_back| flow.exchanged(0, NOTHING, false, holds_back);
        assert!(!exchange(true));
        assert!(exchange(false));
        assert!(!exchange(false));
    }

    #[test]
    fn a_task_that_has_paused_reads_on_once_the_session_wants_more() {
        let mut flow = Flow::default();
        assert!(flow.read(true));
        assert!(!flow.resumes_reading(|| unreachable!()), "it reads");
        assert!(!flow.read(false));
        assert!(!flow.resumes_reading(|| false));
        assert!(flow.resumes_reading(|| true));
        assert!(!flow.resumes_reading(|| unreachable!()), "it reads");
    }
}
