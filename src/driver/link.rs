//! A link: one client's session and the connection that carries it now, if any. Here is what Lua's thread asks of it;
//! `link/publish.rs` takes messages, and `link/task.rs` is for the connection's task.

mod publish;
mod task;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::descriptor::Descriptor;
use super::exchange::Ended;
use super::flow::{Flow, Load};
#[cfg(unix)]
use super::held;
use super::hub::{Hub, Member, TaskCount};
use super::large::Large;
use super::readiness::{News, Readiness};
use super::transport::{Ending, Transport};
use super::{Driver, lock, lock_until};
use crate::codec::Packet;
use crate::net::OpenError;
use crate::session::{
    Event, Failure, Parted, RequestError, Session, Settings, State, Stats, Unrenewed,
};

/// What a link has for Lua.
#[derive(Debug)]
pub enum LinkEvent {
    /// The connection is up; nothing has been sent on it.
    Opened,
    /// The connection could not be opened.
    OpenFailed(Box<OpenError>),
    /// A packet that the user sees.
    Packet(Packet),
    /// A message that was accepted will not be sent, see [`Event::Dropped`].
    Dropped {
        /// Its packet identifier, 0 for QoS 0.
        packet_id: u16,
        /// Why the server does not take it.
        reason: RequestError,
    },
    /// A request that was accepted will not be sent, see [`Event::Withdrawn`].
    Withdrawn {
        /// Its packet identifier, 0 for QoS 0.
        packet_id: u16,
        /// Its correlation data.
        correlation_data: Bytes,
    },
    /// A subscription was lost with the server's session, see [`Event::Unrenewed`].
    Unrenewed(Unrenewed),
    /// The session ended the connection, with the reason.
    Failed(Failure),
    /// The connection ended by itself.
    Ended(Ended),
    /// The time set by [`Link::wake_after`] has come.
    Woken,
}

impl From<Event> for LinkEvent {
    fn from(event: Event) -> Self {
        match event {
            Event::Packet(packet) => Self::Packet(packet),
            Event::Dropped { packet_id, reason } => Self::Dropped { packet_id, reason },
            Event::Withdrawn {
                packet_id,
                correlation_data,
            } => Self::Withdrawn {
                packet_id,
                correlation_data,
            },
            Event::Unrenewed(unrenewed) => Self::Unrenewed(unrenewed),
            Event::Failed(failure) => Self::Failed(failure),
        }
    }
}

/// One client's session and connection.
pub struct Link {
    token: u32,
    hub: Arc<Hub>,
    /// Messages that Lua has at hand while the task receives others. Only Lua's thread locks this, before `state`.
    taken: Mutex<VecDeque<Event>>,
    state: Mutex<LinkState>,
}

pub(super) struct LinkState {
    pub(super) session: Session,
    attached: Option<Attached>,
    /// The connection before, if it had something to send when it was closed: the next one waits for its end. A server
    /// ends a connection when its client comes by another one, and reads what is left of it no more. So does the
    /// cluster of which the next server is another node; and whether it is one, only who runs it knows.
    previous: Option<Arc<Transport>>,
    /// Mailbox of the task that holds the socket of a connector, from `hold` to `let_go`.
    held: Option<Arc<Transport>>,
    /// What a connector has received of a packet that is not whole. Boxed: few links have it.
    pub(super) input: Option<Box<BytesMut>>,
    /// When to wake Lua. Boxed: few links have one.
    alarm: Option<Box<Alarm>>,
    /// Lua is to be woken, and has not been told.
    woken: bool,
    flow: Flow,
    large: Large,
    readiness: Readiness,
    descriptor: Descriptor,
}

/// A connection, from `open` to `close`.
struct Attached {
    /// Mailbox of the task that owns the connection.
    transport: Arc<Transport>,
    /// How opening ended, not yet told.
    opened: Option<Result<(), Box<OpenError>>>,
    /// How the connection ended, not yet told. Comes after every packet.
    ended: Option<Ended>,
    tls_version: Option<&'static str>,
}

/// See [`Link::wake_after`].
struct Alarm {
    at: Instant,
    /// Somebody has to drive until it rings.
    _alive: TaskCount,
}

impl Link {
    /// A link without a connection.
    pub fn new(driver: &Driver, session: Session) -> Arc<Link> {
        let link = Arc::new(Link {
            token: driver.hub.new_token(),
            hub: Arc::clone(&driver.hub),
            taken: Mutex::default(),
            state: Mutex::new(LinkState {
                session,
                attached: None,
                previous: None,
                held: None,
                input: None,
                alarm: None,
                woken: false,
                flow: Flow::default(),
                large: Large::default(),
                readiness: Readiness::new(),
                descriptor: Descriptor::default(),
            }),
        });
        let member = Arc::downgrade(&link);
        driver.hub.add_member(link.token, member);
        link
    }

    /// What [`Driver::next_ready`] calls this link.
    pub fn token(&self) -> u32 {
        self.token
    }

    /// Whether this belongs to the parent of this process, see [`Driver::is_stale`].
    pub fn is_stale(&self) -> bool {
        self.hub.is_stale()
    }

    /// Lets go of the connection, if there is one, for the next one. Returns the mailbox of the next one's task, and
    /// the connection whose end it is to wait for.
    pub(super) fn renew(&self) -> (Arc<Transport>, Option<Arc<Transport>>) {
        self.close();
        let transport = Arc::<Transport>::default();
        let mut state = self.lock();
        state.attached = Some(Attached {
            transport: Arc::clone(&transport),
            opened: None,
            ended: None,
            tls_version: None,
        });
        (transport, state.previous.clone())
    }

    /// Uses the session, and sees to it that what this has put into its transmit buffer is written. This runs under a
    /// lock: nothing that cannot be sent to another thread, such as a value of Lua's, can be used there.
    pub(super) fn with_session<T>(&self, request: impl FnOnce(&mut Session) -> T + Send) -> T {
        let mut state = self.lock();
        let result = request(&mut state.session);
        self.see_to_transmit(&mut state);
        result
    }

    /// Looks at the session, and changes nothing.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Session) -> T) -> T {
        look(&self.lock().session)
    }

    /// Holds a socket that a connector in Lua has connected, until `let_go`.
    #[cfg(unix)]
    pub fn hold(&self, driver: &Driver, socket: std::os::fd::OwnedFd) {
        self.let_go();
        let transport = Arc::<Transport>::default();
        self.lock().held = Some(Arc::clone(&transport));
        let hub = Arc::clone(&self.hub);
        driver.spawn(|alive| held::run(hub, transport, socket, alive));
    }

    /// Has the connection of a connector end in order, in the background: the connector has closed its own descriptor.
    pub fn let_go(&self) {
        self.lock().let_go(&self.hub);
    }

    /// Whether the peer may not have read all of the connector's last connection.
    pub fn is_parting(&self) -> bool {
        let state = self.lock();
        state.previous.as_ref().is_some_and(|last| !last.is_gone())
    }

    /// Closes the connection, if there is one: what was accepted on it is sent in the background, as far as the session
    /// does not keep it for the next one; then the peer sees the end of the stream. What the connection had for Lua is
    /// dropped, but for answers to requests.
    pub fn close(&self) {
        let mut state = self.lock_with_messages();
        state.detach(&self.hub, |session| session.part(false));
        self.tell_rest(&mut state);
    }

    /// Closes the connection, if there is one, for a program that will not come back: all that was accepted, also on
    /// earlier connections, is sent in the background.
    pub fn leave(&self) {
        self.lock().detach(&self.hub, |session| session.part(true));
    }

    /// Drops the connection after everything in the transmit buffer has been written, and waits for that until
    /// `deadline` at the longest; the rest is then written in the background.
    pub fn close_flushed(&self, driver: &Driver, deadline: Instant) {
        let transport = {
            let mut state = self.lock_with_messages();
            let transport = state.detach(&self.hub, |session| Parted::Rest(session.take()));
            let last = transport.as_ref().or(state.held.as_ref()).cloned();
            state.previous = last;
            self.tell_rest(&mut state);
            transport
        };
        if let Some(transport) = transport {
            driver.wait_until(deadline, || transport.is_flushed());
        }
    }

    /// Whether so much waits to be written or acknowledged that the program should wait before it sends more.
    pub fn is_full(&self) -> bool {
        self.lock().is_full()
    }

    /// Bytes that wait to be written or acknowledged.
    pub fn outgoing_bytes(&self) -> usize {
        self.lock().outgoing_bytes()
    }

    /// Whether the server's receive maximum still keeps back something that was accepted.
    pub fn holds_back(&self) -> bool {
        let mut state = self.lock();
        let holds_back = state.holds_back();
        state.flow.drain(holds_back)
    }

    /// Whether what is full has room again, or waiting is in vain since the program itself has to take something first.
    pub fn has_room_or_news(&self) -> bool {
        let mut state = self.lock();
        state.session.is_slow() || !state.is_full()
    }

    /// Whether the program must take events before more can be sent.
    pub fn is_slow(&self) -> bool {
        self.look(Session::is_slow)
    }

    /// Makes [`LinkEvent::Woken`] come at once.
    pub fn wake(&self) {
        let mut state = self.lock();
        state.woken = true;
        self.has_news(&mut state);
    }

    /// Makes [`LinkEvent::Woken`] come after `delay`, unless this is called again before.
    pub fn wake_after(&self, delay: Duration) {
        let alarm = Instant::now().checked_add(delay).map(|at| {
            let _alive = self.hub.count_task();
            Box::new(Alarm { at, _alive })
        });
        let mut state = self.lock();
        state.woken = false;
        let (old, new) = (state.alarm_time(), alarm.as_ref().map(|alarm| alarm.at));
        state.alarm = alarm;
        self.hub.alarms.move_link(self.token, old, new);
        drop(state);
        self.hub.helm.wake_if_parked();
    }

    /// The next thing for Lua. If there is none yet, drives the runtime for a turn, without blocking.
    pub fn step(&self, driver: &Driver) -> Option<LinkEvent> {
        self.next_event().or_else(|| {
            let relieve = self.lock().readiness.step();
            driver.turn(relieve);
            self.next_event()
        })
    }

    /// The next thing for Lua, without driving the runtime.
    pub fn next_event(&self) -> Option<LinkEvent> {
        let mut taken = lock(&self.taken);
        if let Some(event) = taken.pop_front() {
            return Some(event.into());
        }
        let mut state = self.lock();
        state.readiness.ask();
        let event = state.take_messages(&mut taken);
        let event = event.or_else(|| state.next_event());
        if event.is_none() {
            state.emptied();
            *taken = VecDeque::new();
        } else if !taken.is_empty() || state.has_events() {
            state.raise();
        }
        let LinkState { flow, session, .. } = &mut *state;
        if flow.resumes_reading(|| session.wants_receive()) && self.mark_dirty(&state) {
            // Sooner than in a burst of requests: Lua is not to wait for it.
            self.hub.helm.call_if_driving();
        }
        event
    }

    /// Gives the session other settings, from now on.
    pub fn configure(&self, settings: Settings) {
        self.with_session(|session| session.configure(settings));
    }

    /// The session's counters.
    pub fn stats(&self) -> Stats {
        self.look(Session::stats)
    }

    /// The time until keep alive has something to do, and whether the server is given up then.
    pub fn deadline(&self) -> (Option<Duration>, bool) {
        let (deadline, awaits) = self.look(|it| (it.poll_timeout(), it.awaits_answer()));
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        (left, awaits)
    }

    /// Version of TLS that the connection uses, if any.
    pub fn tls_version(&self) -> Option<&'static str> {
        self.lock().attached.as_ref()?.tls_version
    }

    /// Whether `next_event` has something.
    pub fn has_events(&self) -> bool {
        let mut state = self.lock_with_messages();
        let any = state.has_events();
        // Whoever asks is about to wait.
        if any {
            state.raise();
        } else {
            state.emptied();
        }
        any
    }

    /// A descriptor that is readable while `step` has something or, on Linux, may have something because bytes have
    /// arrived; until the link is dropped. Not to be read from or closed.
    ///
    /// # Errors
    /// What the operating system says when it has no more descriptors.
    #[cfg(unix)]
    pub fn fd(&self) -> std::io::Result<std::os::fd::RawFd> {
        let mut state = self.lock_with_messages();
        if let Some(fd) = state.descriptor.fd() {
            return Ok(fd);
        }
        let fd = state.descriptor.make()?;
        state.readiness.wait_on();
        if state.has_events() {
            state.raise();
        }
        // The task knows the socket to be watched.
        self.mark_dirty(&state);
        Ok(fd)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, LinkState> {
        lock(&self.state)
    }

    /// The same, after the messages that Lua has at hand have been given back.
    fn lock_with_messages(&self) -> MutexGuard<'_, LinkState> {
        let taken = std::mem::take(&mut *lock(&self.taken));
        let mut state = self.lock();
        if !taken.is_empty() {
            state.session.give_back(taken);
        }
        state
    }

    /// Sees to it that Lua asks for what there is.
    fn tell_rest(&self, state: &mut LinkState) {
        if state.has_events() {
            self.has_news(state);
        }
    }

    pub(super) fn see_to_transmit(&self, state: &mut LinkState) {
        let nothing = state.session.fill().is_empty();
        if state.attached.is_none() {
            return;
        }
        if !nothing {
            self.mark_dirty(state);
            let is_driving = self.hub.helm.is_caretaker_driving();
            if state.readiness.transmit(is_driving) {
                state.descriptor.raise();
            }
        }
        // Something that waited may have turned out to be more than the server takes.
        self.tell_rest(state);
    }

    /// Lets the task of the connection, if there is one, know that it has something to do. Returns whether there is
    /// one.
    fn mark_dirty(&self, state: &LinkState) -> bool {
        if let Some(attached) = &state.attached {
            self.hub.mark_dirty(&attached.transport);
        }
        state.attached.is_some()
    }

    fn has_news(&self, state: &mut LinkState) {
        let News { list, raise } = state.readiness.news();
        if list {
            self.hub.add_ready(self.token);
        }
        if raise {
            state.descriptor.raise();
        }
    }
}

impl Member for Link {
    fn ring(&self, now: Instant) {
        let mut state = self.lock();
        if state.alarm.take_if(|alarm| alarm.at <= now).is_some() {
            state.woken = true;
            self.has_news(&mut state);
        }
    }

    fn leave_until(&self, deadline: Instant) {
        if let Some(mut state) = lock_until(&self.state, deadline) {
            state.detach(&self.hub, |session| session.part(true));
            state.let_go(&self.hub);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if self.hub.is_stale() {
            return;
        }
        self.let_go();
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.hub.forget(self.token, state.alarm_time());
    }
}

impl Attached {
    fn is_of(&self, transport: &Arc<Transport>) -> bool {
        Arc::ptr_eq(&self.transport, transport)
    }

    fn has_events(&self) -> bool {
        self.opened.is_some() || self.ended.is_some()
    }
}

impl LinkState {
    fn is_attached(&self, transport: &Arc<Transport>) -> bool {
        self.attached
            .as_ref()
            .is_some_and(|attached| attached.is_of(transport))
    }

    /// Whether there is a connection, or one is being opened.
    fn is_up(&self) -> bool {
        self.attached
            .as_ref()
            .is_some_and(|attached| attached.ended.is_none())
    }

    /// Whether the connection has ended by itself, and Lua does not know.
    fn has_ended(&self) -> bool {
        self.attached
            .as_ref()
            .is_some_and(|attached| attached.ended.is_some())
    }

    fn alarm_time(&self) -> Option<Instant> {
        self.alarm.as_ref().map(|alarm| alarm.at)
    }

    fn has_events(&self) -> bool {
        self.woken
            || self.attached.as_ref().is_some_and(Attached::has_events)
            || self.session.has_events()
    }

    fn load(&self) -> Load {
        Load {
            transmit: self.session.transmit().len(),
            stored: self.session.stored_bytes(),
            most_stored: self.session.settings().max_outgoing_bytes,
        }
    }

    /// Bytes that wait to be written or acknowledged.
    fn outgoing_bytes(&self) -> usize {
        self.flow.outgoing(self.load())
    }

    fn holds_back(&self) -> bool {
        let connected = self.session.state() == State::Connected && !self.has_ended();
        connected && self.session.holds_back()
    }

    fn is_full(&mut self) -> bool {
        let over = self.has_ended() || self.session.state() == State::Disconnected;
        self.flow.is_full(self.load(), over)
    }

    /// The task has so many bytes left to write. Returns whether to wake whoever waits for that.
    fn exchanged(&mut self, unwritten: usize) -> bool {
        let (slow, holds_back) = (self.session.is_slow(), self.holds_back());
        self.flow
            .exchanged(unwritten, self.load(), slow, holds_back)
    }

    /// Lua has seen that there is nothing.
    fn emptied(&mut self) {
        if self.readiness.emptied() {
            self.descriptor.clear();
        }
    }

    /// Makes the descriptor readable, if there is one.
    fn raise(&mut self) {
        if self.readiness.raise() {
            self.descriptor.raise();
        }
    }

    fn next_event(&mut self) -> Option<LinkEvent> {
        if std::mem::take(&mut self.woken) {
            return Some(LinkEvent::Woken);
        }
        match self.attached.as_mut().and_then(|it| it.opened.take()) {
            Some(Ok(())) => return Some(LinkEvent::Opened),
            Some(Err(error)) => return Some(LinkEvent::OpenFailed(error)),
            None => {}
        }
        if let Some(event) = self.session.poll_event() {
            return Some(event.into());
        }
        self.attached.as_mut()?.ended.take().map(LinkEvent::Ended)
    }

    /// Takes all messages, and returns the first, if they are many and come next.
    fn take_messages(&mut self, into: &mut VecDeque<Event>) -> Option<LinkEvent> {
        let opened = self.attached.as_ref().is_some_and(|it| it.opened.is_some());
        let next = !self.woken && !opened;
        (next && self.session.take_messages(into))
            .then(|| into.pop_front())
            .flatten()
            .map(LinkEvent::from)
    }

    /// Copies what has not been written of a large message. Returns whether there is one.
    fn copy_large(&mut self) -> bool {
        let Some((head, payload)) = self.large.end() else {
            return false;
        };
        self.session.put_back(&head, &payload);
        true
    }

    /// Lets go of the transport, which has still to do as `part` says, and forgets what it had for Lua.
    fn detach(
        &mut self,
        hub: &Hub,
        part: impl FnOnce(&mut Session) -> Parted,
    ) -> Option<Arc<Transport>> {
        let transport = self.attached.take().map(|attached| attached.transport);
        let state = self.session.state();
        if self.held.is_some() && matches!(state, State::Connecting | State::Connected) {
            self.previous.clone_from(&self.held);
        }
        // Without a transport, a connector has all there was; and to one that is gone there is nothing to be given.
        if let Some(transport) = transport.as_ref().filter(|transport| !transport.is_gone()) {
            self.copy_large();
            // A server that was given up is not waited for.
            let is_up = matches!(self.session.state(), State::Connecting | State::Connected);
            let is_unsure = self.flow.has_unwritten() || self.session.forgets_unanswered();
            let ending = match part(&mut self.session) {
                Parted::Nothing => Ending::Drop,
                Parted::Rest(rest) => Ending::Flush(rest, hub.count_parting()),
                Parted::Session(session) => Ending::Leave(session, hub.count_parting()),
            };
            let has_rest = match &ending {
                Ending::Drop => false,
                Ending::Flush(rest, _) => is_unsure || !rest.is_empty(),
                Ending::Leave(..) => true,
            };
            if transport.end(ending) {
                if is_up && has_rest {
                    self.previous = Some(Arc::clone(transport));
                }
                hub.mark_dirty(transport);
            }
        }
        self.session.close();
        self.session.discard_events();
        self.flow = Flow::default();
        self.descriptor.detach();
        transport
    }

    fn let_go(&mut self, hub: &Hub) {
        if let Some(held) = self.held.take() {
            held.end(Ending::Flush(BytesMut::new(), hub.count_parting()));
            hub.mark_dirty(&held);
        }
    }
}
