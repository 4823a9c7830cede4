//! A link: one client's session and the connection that carries it now, if any. This file serves Lua's thread.
//! `link/publish.rs` takes messages, and `link/task.rs` serves the connection's task.

mod publish;
mod task;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::spawn_blocking;

use super::descriptor::Descriptor;
use super::exchange::Ended;
use super::flow::{Flow, Load};
use super::held::{self, Held};
use super::hub::{Hub, Member, Parting, TaskCount};
use super::large::Large;
use super::readiness::{News, Readiness};
use super::transport::{Ending, Rest, Transport};
use super::{Driver, lock, lock_until, now};
use crate::codec::{Packet, PublishRef};
use crate::net::{OpenError, OwnedSocket};
use crate::session::{
    Discarded, Event, Failure, Keep, KeepError, Keeping, Label, Listed, Mark, Parted, RequestError,
    Session, Settings, State, Stats, Syncing, Unrenewed,
};

/// News of a link for Lua.
#[derive(Debug)]
pub enum LinkEvent {
    /// The connection is up. Nothing has been sent on it.
    Opened,
    /// The connection could not be opened.
    OpenFailed(Box<OpenError>),
    /// A packet that the user sees.
    Packet(Packet),
    /// An accepted message will not be sent, see [`Event::Dropped`].
    Dropped {
        /// The packet identifier, 0 for QoS 0.
        packet_id: u16,
        /// Why the server does not take the message.
        reason: RequestError,
    },
    /// A kept message is sent, see [`Event::Identified`].
    Identified {
        /// Its place in the order in which messages were kept.
        sequence: u64,
        /// The packet identifier, 0 for QoS 0.
        packet_id: u16,
        /// The program's name for it, empty for none.
        tag: Bytes,
    },
    /// An accepted request will not be sent, see [`Event::Withdrawn`].
    Withdrawn {
        /// The packet identifier, 0 for QoS 0.
        packet_id: u16,
        /// The correlation data.
        correlation_data: Bytes,
    },
    /// An accepted message was given up when its turn came, see [`Event::Discarded`].
    Discarded(Discarded),
    /// A subscription was lost with the server's session, see [`Event::Unrenewed`].
    Unrenewed(Unrenewed),
    /// The session ended the connection for this reason.
    Failed(Failure),
    /// This many messages wait for an acknowledgement: the server may send no more before. Told once.
    Unacknowledged(u32),
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
            Event::Discarded(discarded) => Self::Discarded(discarded),
            Event::Withdrawn {
                packet_id,
                correlation_data,
            } => Self::Withdrawn {
                packet_id,
                correlation_data,
            },
            Event::Identified {
                sequence,
                packet_id,
                tag,
            } => Self::Identified {
                sequence,
                packet_id,
                tag,
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
    /// Messages that Lua goes through while the task receives others. Only Lua's thread locks this, and before `state`.
    taken: Mutex<VecDeque<Event>>,
    state: Mutex<LinkState>,
}

pub(super) struct LinkState {
    pub(super) session: Session,
    attached: Option<Attached>,
    /// The previous connection, if it had bytes to send when it was closed. The next connection waits for its end. A
    /// server ends a connection when its client comes by another one, and no longer reads the rest of the old one. A
    /// cluster does so too, even if the next server is another of its nodes. Only the operator knows whether it is a
    /// cluster.
    previous: Option<Arc<Transport>>,
    /// A connector's socket, from `hold` to `let_go`. Boxed, because few links have one.
    pub(super) held: Option<Box<Held>>,
    /// The bytes that a connector has received of a packet that is not whole. Boxed, because few links have them.
    pub(super) input: Option<Box<BytesMut>>,
    /// When to wake Lua. Boxed, because few links have an alarm.
    alarm: Option<Box<Alarm>>,
    /// Lua is to be woken, and has not taken [`LinkEvent::Woken`] yet.
    woken: bool,
    /// Where the store's syncs are done, if it needs any.
    syncs: Option<UnboundedSender<Job>>,
    flow: Flow,
    large: Large,
    readiness: Readiness,
    descriptor: Descriptor,
}

/// A connection, from `open` to `close`.
struct Attached {
    /// The mailbox of the task that owns the connection.
    transport: Arc<Transport>,
    /// How opening ended. `None` before that, and after Lua has been told.
    opened: Option<Result<(), Box<OpenError>>>,
    /// How the connection ended, if Lua has not been told. Comes after every packet.
    ended: Option<Ended>,
    tls_version: Option<&'static str>,
}

/// The alarm of [`Link::wake_after`].
struct Alarm {
    at: Instant,
    /// Keeps the runtime driven until the alarm rings.
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
                syncs: None,
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

    /// The number by which [`Driver::next_ready`] names this link.
    pub fn token(&self) -> u32 {
        self.token
    }

    /// Whether the link belongs to the parent of this process, see [`Driver::is_stale`].
    pub fn is_stale(&self) -> bool {
        self.hub.is_stale()
    }

    /// Lets go of the connection, if there is one, for the next one. Returns the mailbox of the next one's task, and
    /// the connection for whose end that task waits.
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

    /// Uses the session, and has the bytes written that this adds to its transmit buffer. The request runs under a
    /// lock. It cannot use a value that cannot be sent to another thread, such as a value of Lua.
    pub(super) fn with_session<T>(&self, request: impl FnOnce(&mut Session) -> T + Send) -> T {
        let mut state = self.lock();
        let result = request(&mut state.session);
        self.see_to_transmit(&mut state);
        result
    }

    /// Has accepted messages outlive the process, see [`Session::keep_in`]. Syncs are done in threads of the runtime.
    ///
    /// # Errors
    /// See there.
    pub fn keep_in(
        self: &Arc<Self>,
        driver: &Driver,
        store: Box<dyn Keep>,
        keeping: Keeping,
    ) -> Result<(), KeepError> {
        let needs_sync = store.needs_sync();
        self.with_session(|session| session.keep_in(store, keeping))?;
        if needs_sync {
            let (jobs, to_do) = unbounded_channel();
            self.lock().syncs = Some(jobs);
            let link = Arc::downgrade(self);
            driver.spawn(|alive| async move {
                sync(link, to_do).await;
                drop(alive);
            });
        }
        Ok(())
    }

    /// See [`Session::note`].
    pub fn note(&self, name: &[u8], value: &[u8]) {
        self.with_session(|session| session.note(name, value));
    }

    /// See [`Session::noted`].
    pub fn noted(&self, name: &[u8]) -> Option<Box<[u8]>> {
        self.look(|session| session.noted(name))
    }

    /// Kept messages, see [`Keep::list`]. None without a store.
    ///
    /// # Errors
    /// See there.
    pub fn stored(
        &self,
        from: Option<Mark>,
        most: usize,
    ) -> Result<(Vec<Listed>, Option<Mark>), KeepError> {
        self.lock().session.stored(from, most)
    }

    /// Whether bytes wait until the store has been synced.
    pub fn waits_for_store(&self) -> bool {
        self.look(Session::waits_for_store)
    }

    /// Publishes a message that outlives the process, see [`Session::publish_kept`]. Returns also the messages that were
    /// given up for it.
    ///
    /// # Errors
    /// See there.
    pub fn publish_kept(
        &self,
        message: &PublishRef<'_>,
        label: &Label<'_>,
    ) -> Result<(u16, u64, Vec<Discarded>), RequestError> {
        self.with_session(|session| {
            let (packet_id, sequence) = session.publish_kept(message, label)?;
            Ok((packet_id, sequence, session.take_discarded()))
        })
    }

    /// Looks at the session without changing it.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Session) -> T) -> T {
        look(&self.lock().session)
    }

    /// Holds a socket that a connector in Lua has connected, until `let_go`. If the connector's `send` is `plain`, which
    /// means that it does nothing but write to the socket, the link writes as well where it can. Returns whether it does.
    pub fn hold(self: &Arc<Self>, driver: &Driver, socket: OwnedSocket, plain: bool) -> bool {
        self.let_go();
        let socket = Arc::new(socket);
        let held = Held::new(&socket, plain);
        let (transport, writes) = (Arc::clone(&held.transport), held.writes());
        self.lock().held = Some(Box::new(held));
        let (hub, link) = (Arc::clone(&self.hub), Arc::downgrade(self));
        driver.spawn(|alive| held::run(hub, link, transport, socket, alive));
        writes
    }

    /// Ends a connector's connection in order, in the background. The connector has closed its own descriptor.
    pub fn let_go(&self) {
        self.lock().let_go(&self.hub);
    }

    /// Whether the peer may not yet have read all of the last connection.
    pub fn is_parting(&self) -> bool {
        let state = self.lock();
        state.previous.as_ref().is_some_and(|last| !last.is_gone())
    }

    /// Closes the connection, if there is one. Accepted packets are sent in the background, unless the session keeps
    /// them for the next connection. Then the peer sees the end of the stream. The connection's events for Lua are
    /// dropped, except answers to requests.
    pub fn close(&self) {
        let mut state = self.lock_with_messages();
        state.detach(&self.hub, |session| session.part(false));
        self.tell_rest(&mut state);
    }

    /// Closes the connection, if there is one, for a program that will not come back. All accepted packets, also of
    /// earlier connections, are sent in the background.
    pub fn leave(&self) {
        let mut state = self.lock();
        state.detach(&self.hub, |session| session.part(true));
        state.sync_at_last(&self.hub);
    }

    /// The program will not come back: another link may have the store.
    pub fn let_go_of_store(&self) {
        self.lock().session.let_go_of_store();
    }

    /// Drops the connection after the whole transmit buffer has been written. Waits for that until `deadline`; then the
    /// rest is written in the background.
    pub fn close_flushed(&self, driver: &Driver, deadline: Instant) {
        let transport = {
            let mut state = self.lock_with_messages();
            let transport = state.detach(&self.hub, |session| Parted::Rest(session.take()));
            let last = transport.clone().or_else(|| state.held_transport());
            state.previous = last;
            self.tell_rest(&mut state);
            transport
        };
        if let Some(transport) = transport {
            driver.wait_until(deadline, || transport.is_flushed());
        }
    }

    /// Whether so many bytes wait to be written or acknowledged that the program should wait before it sends more.
    pub fn is_full(&self) -> bool {
        self.lock().is_full()
    }

    /// Bytes that wait to be written or acknowledged.
    pub fn outgoing_bytes(&self) -> usize {
        self.lock().outgoing_bytes()
    }

    /// Whether accepted packets still wait, for example for the server's receive maximum.
    pub fn holds_back(&self) -> bool {
        let mut state = self.lock();
        let holds_back = state.holds_back();
        state.flow.drain(holds_back)
    }

    /// Whether a full link has room again, or waiting is in vain because the program itself has to take events first.
    pub fn has_room_or_news(&self) -> bool {
        let mut state = self.lock();
        state.session.is_slow() || !state.is_full()
    }

    /// Whether the program must take events before it can send more.
    pub fn is_slow(&self) -> bool {
        self.look(Session::is_slow)
    }

    /// Makes [`LinkEvent::Woken`] come at once.
    pub fn wake(&self) {
        let mut state = self.lock();
        state.woken = true;
        self.has_news(&mut state);
    }

    /// Makes [`LinkEvent::Woken`] come after `delay`. Another call before that replaces the time.
    pub fn wake_after(&self, delay: Duration) {
        let alarm = now().checked_add(delay).map(|at| {
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

    /// The next event for Lua. If there is none yet, drives the runtime for one turn, without blocking.
    pub fn step(&self, driver: &Driver) -> Option<LinkEvent> {
        self.next_event().or_else(|| {
            let relieve = self.lock().readiness.step();
            driver.turn(relieve);
            self.next_event()
        })
    }

    /// The next event for Lua, without driving the runtime.
    pub fn next_event(&self) -> Option<LinkEvent> {
        let mut taken = lock(&self.taken);
        if let Some(event) = taken.pop_front() {
            return Some(event.into());
        }
        let mut state = self.lock();
        state.readiness.ask();
        let event = state.take_messages(&mut taken);
        let event = event.or_else(|| state.next_event());
        state.set_in_turn(event.is_some());
        if event.is_none() {
            state.emptied();
            *taken = VecDeque::new();
            if state.session.has_kept_waiting() {
                // Answers that the user has taken now may have given packet identifiers back.
                self.see_to_transmit(&mut state);
            }
            state.acknowledge_held();
        } else if !taken.is_empty() || state.has_events() {
            state.raise();
        }
        let LinkState { flow, session, .. } = &mut *state;
        if flow.resumes_reading(|| session.wants_receive()) && self.mark_dirty(&state) {
            // Sooner than for a burst of requests: Lua is not to wait for it.
            self.hub.helm.call_if_driving();
        }
        event
    }

    /// Replaces the session's settings. The clock is the driver's.
    pub fn configure(&self, mut settings: Settings) {
        settings.clock = Some(now);
        self.with_session(|session| session.configure(settings));
    }

    /// The session's figures.
    pub fn stats(&self) -> Stats {
        self.look(Session::stats)
    }

    /// The time until keep alive is due, and whether the server is given up then.
    pub fn deadline(&self) -> (Option<Duration>, bool) {
        let (deadline, awaits) = self.look(|it| (it.poll_timeout(), it.awaits_answer()));
        let left = deadline.map(|at| at.saturating_duration_since(now()));
        (left, awaits)
    }

    /// The version of TLS that the connection uses, if any.
    pub fn tls_version(&self) -> Option<&'static str> {
        self.lock().attached.as_ref()?.tls_version
    }

    /// Whether `next_event` has an event.
    pub fn has_events(&self) -> bool {
        let mut state = self.lock_with_messages();
        let any = state.has_events();
        // The caller is about to wait.
        if any {
            state.raise();
        } else {
            state.emptied();
        }
        any
    }

    /// A descriptor that is readable while `step` has an event. On Linux it is also readable when bytes have arrived,
    /// so that `step` may have an event. It is valid until the link is dropped. Do not read from it or close it.
    ///
    /// # Errors
    /// The operating system's error when it has no more descriptors.
    pub fn fd(&self) -> std::io::Result<super::WaitedOn> {
        let mut state = self.lock_with_messages();
        if let Some(fd) = state.descriptor.get() {
            return Ok(fd);
        }
        let fd = state.descriptor.make()?;
        state.readiness.wait_on();
        if state.has_events() {
            state.raise();
        }
        // The task knows the socket to watch.
        self.mark_dirty(&state);
        Ok(fd)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, LinkState> {
        lock(&self.state)
    }

    /// Locks the state after giving back the messages that Lua has not taken yet.
    fn lock_with_messages(&self) -> MutexGuard<'_, LinkState> {
        let taken = std::mem::take(&mut *lock(&self.taken));
        let mut state = self.lock();
        if !taken.is_empty() {
            state.session.give_back(taken);
        }
        state
    }

    /// Tells Lua to ask for the events that there are.
    fn tell_rest(&self, state: &mut LinkState) {
        if state.has_events() {
            self.has_news(state);
        }
    }

    pub(super) fn see_to_transmit(&self, state: &mut LinkState) {
        let nothing = state.session.fill().is_empty();
        state.begin_sync();
        if state.attached.is_none() {
            if !nothing {
                self.see_to_held(state);
            }
            return;
        }
        if !nothing {
            self.mark_dirty(state);
            let is_driving = self.hub.helm.is_caretaker_driving();
            if state.readiness.transmit(is_driving) {
                state.descriptor.raise();
            }
        }
        // A waiting packet may have turned out to be more than the server takes. Its event is news.
        self.tell_rest(state);
    }

    /// Tells the task of the connection, if there is one, that it has work. Returns whether there is a connection.
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
            state.sync_at_last(&self.hub);
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

/// How long after a failed sync the next one begins.
const RETRY: Duration = Duration::from_secs(1);

/// A sync of a link's store.
struct Job {
    sync: Syncing,
    /// Nobody waits for its result but the end of the program.
    last: Option<Parting>,
}

/// Does a link's syncs, as long as there is the link. A sync that has failed is followed by another one after a while.
async fn sync(link: Weak<Link>, mut jobs: UnboundedReceiver<Job>) {
    let mut has_failed = false;
    while let Some(Job { sync, last }) = jobs.recv().await {
        if has_failed && last.is_none() {
            tokio::time::sleep(RETRY).await;
        }
        let result = spawn_blocking(sync).await;
        let result = result.unwrap_or_else(|error| Err(KeepError::Failed(error.to_string())));
        if last.is_some() {
            continue;
        }
        has_failed = result.is_err();
        let Some(link) = link.upgrade() else {
            continue;
        };
        link.with_session(|session| session.synced(result));
        // A program may wait for that.
        link.hub.news.notify_one();
        // A task that has work now is in this runtime, which is being driven.
        link.hub.wake_dirty();
    }
}

impl LinkState {
    /// Has the store synced, if it needs that and is not being synced.
    pub(super) fn begin_sync(&mut self) {
        if let Some(syncs) = &self.syncs
            && let Some(job) = self.session.sync()
        {
            // The receiver lives as long as the link.
            let _ = syncs.send(Job {
                sync: job,
                last: None,
            });
        }
    }

    /// Has the store synced for a program that will not come back.
    fn sync_at_last(&mut self, hub: &Hub) {
        if let Some(syncs) = &self.syncs
            && let Some(store) = self.session.store()
            && let Some(sync) = store.last_sync()
        {
            let last = Some(hub.count_parting());
            let _ = syncs.send(Job { sync, last });
        }
    }

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

    /// Whether the connection has ended by itself, and Lua has not been told.
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
            transmit: self.session.unwritten(),
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

    /// The task has `unwritten` bytes left to write. Returns whether to wake a program that waits for that.
    fn exchanged(&mut self, unwritten: usize) -> bool {
        let (slow, holds_back) = (self.session.is_slow(), self.holds_back());
        self.flow
            .exchanged(unwritten, self.load(), slow, holds_back)
    }

    /// Lua has seen that there is no event.
    fn emptied(&mut self) {
        if self.readiness.emptied() {
            self.descriptor.clear();
        }
    }

    /// Makes the descriptor readable, if an event loop waits on it.
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
        if let Some(count) = self.session.take_stall() {
            return Some(LinkEvent::Unacknowledged(count));
        }
        self.attached.as_mut()?.ended.take().map(LinkEvent::Ended)
    }

    /// Takes all messages, and returns the first, if they are many and no other event comes before them.
    fn take_messages(&mut self, into: &mut VecDeque<Event>) -> Option<LinkEvent> {
        let opened = self.attached.as_ref().is_some_and(|it| it.opened.is_some());
        let next = !self.woken && !opened;
        (next && self.session.take_messages(into))
            .then(|| into.pop_front())
            .flatten()
            .map(LinkEvent::from)
    }

    /// Copies the unwritten rest of a large message. Returns whether there is one.
    fn copy_large(&mut self) -> bool {
        let Some((head, payload)) = self.large.end() else {
            return false;
        };
        self.session.put_back(&head, &payload);
        true
    }

    /// Lets go of the transport, whose remaining work `part` decides, and drops its events for Lua.
    fn detach(
        &mut self,
        hub: &Hub,
        part: impl FnOnce(&mut Session) -> Parted,
    ) -> Option<Arc<Transport>> {
        let transport = self.attached.take().map(|attached| attached.transport);
        let state = self.session.state();
        let held = self.held_transport();
        if held.is_some() && matches!(state, State::Connecting | State::Connected) {
            self.previous = held;
        }
        // A transport that is gone takes no bytes.
        if let Some(transport) = transport.as_ref().filter(|transport| !transport.is_gone()) {
            self.copy_large();
            // Nobody waits for a server that was given up.
            let is_up = matches!(self.session.state(), State::Connecting | State::Connected);
            let is_unsure = self.flow.has_unwritten() || self.session.forgets_unanswered();
            let ending = match part(&mut self.session) {
                Parted::Nothing => Ending::Drop,
                Parted::Rest(bytes) => {
                    let gated = self.session.take_gated();
                    Ending::Flush(Rest { bytes, gated }, hub.count_parting())
                }
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
        } else {
            self.finish_held(part);
        }
        self.session.close();
        self.session.discard_events();
        self.flow = Flow::default();
        #[cfg(target_os = "linux")]
        self.descriptor.detach();
        transport
    }

    /// The mailbox of the task that holds a connector's socket.
    fn held_transport(&self) -> Option<Arc<Transport>> {
        self.held.as_ref().map(|held| Arc::clone(&held.transport))
    }

    fn let_go(&mut self, hub: &Hub) {
        if let Some(held) = self.held.take() {
            let (transport, rest) = held.into_rest();
            transport.end(Ending::Flush(rest, hub.count_parting()));
            hub.mark_dirty(&transport);
        }
    }
}
