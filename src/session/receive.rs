//! Handles the packets that the server sends to a [`Session`], and the rules that they may break.

use std::mem;
use std::time::Instant;

use bytes::BytesMut;

use super::connection::{Connected, Connection};
use super::incoming::Received;
use super::outgoing::{Phase, Progress, Request};
use super::send::unrenewed;
use super::{Event, Failure, NotRenewed, RequestError, Session, State, Violation};
use crate::codec::reason::{
    CONTINUE_AUTHENTICATION, DISCONNECT_WITH_WILL, PACKET_IDENTIFIER_NOT_FOUND, RE_AUTHENTICATE,
    is_refusal,
};
use crate::codec::{
    Ack, Connack, Disconnect, Packet, PacketType, Properties, PropertyId, Publish, QoS, Str,
    Suback, Subscribe, Subscription, Version, decode_header, encode_ack, encode_subscribe,
    reason_listed,
};

/// The first bytes of a TLS alert, by which a TLS server answers bytes that are not TLS. No MQTT packet begins with
/// them.
const TLS_ALERT: &[u8] = &[0x15, 0x03];

type Handled = Result<(), Violation>;

impl Session {
    /// Takes every complete packet off the buffer and handles it. Once the connection has ended, the rest is dropped.
    ///
    /// Receive a PINGRESP that has arrived before calling [`handle_timeout`](Session::handle_timeout).
    pub fn receive(&mut self, buffer: &mut BytesMut, now: Instant) {
        let before = buffer.len();
        self.inbox.begin_read();
        if self.state() == State::Connecting && buffer.starts_with(TLS_ALERT) {
            self.fail(Failure::TlsExpected);
        }
        while self.state() != State::Disconnected {
            let handled = match self.transport.decoder.decode(buffer) {
                Ok(Some(packet)) => self.handle_packet(packet, now),
                Ok(None) => break,
                Err(error) => Err(error.into()),
            };
            if let Err(violation) = handled {
                self.reject(violation);
            }
        }
        let consumed = before - buffer.len();
        self.transport.timers.received(consumed, buffer.len(), now);
        self.counters.bytes_received += consumed as u64;
        self.inbox.end_read(consumed);
        if self.state() == State::Disconnected {
            buffer.clear();
        }
        self.transport.held_back |= self.is_slow();
    }

    /// `bytes` bytes have arrived of a packet that will be [received](Self::receive) when it is whole. So a server that
    /// sends a large packet is not blamed for the PINGRESP behind it.
    pub fn arriving(&mut self, bytes: usize, now: Instant) {
        self.transport.timers.received(0, bytes, now);
    }

    /// How many bytes the packet at the front of a received buffer still lacks. 0 also if its header is not complete or
    /// not valid.
    pub fn missing(&self, buffer: &[u8]) -> usize {
        match decode_header(self.version, buffer) {
            Ok(Some(header)) => {
                (header.size + header.remaining_length as usize).saturating_sub(buffer.len())
            }
            _ => 0,
        }
    }

    /// Ends the connection because the server broke a rule. In 5.0 a DISCONNECT tells it why (4.13).
    #[cold]
    fn reject(&mut self, violation: Violation) {
        if self.version == Version::V50 && self.state() != State::Open {
            self.reply(&Packet::Disconnect(Disconnect {
                reason: violation.reason_code(),
                ..Disconnect::default()
            }));
        }
        self.fail(Failure::Violation(violation));
    }

    #[inline(always)]
    fn handle_packet(&mut self, packet: Packet, now: Instant) -> Handled {
        if self.state() != State::Connected {
            return self.handle_before_connack(packet, now);
        }
        match packet {
            Packet::Publish(publish) => self.handle_publish(publish),
            Packet::Puback(ack) => self.handle_puback(ack),
            Packet::Pubrec(ack) => self.handle_pubrec(ack),
            Packet::Pubrel(ack) => self.handle_pubrel(ack),
            Packet::Pubcomp(ack) => self.handle_pubcomp(ack),
            Packet::Suback(suback) => {
                self.handle_suback(PacketType::Suback, suback, Packet::Suback)
            }
            Packet::Unsuback(unsuback) => {
                self.handle_suback(PacketType::Unsuback, unsuback, Packet::Unsuback)
            }
            Packet::Pingresp => {
                let round_trip = self.transport.timers.pingresp(now);
                self.counters.ping_round_trip = round_trip.or(self.counters.ping_round_trip);
                Ok(())
            }
            Packet::Disconnect(disconnect) => self.handle_disconnect(disconnect),
            Packet::Auth(auth) => self.handle_auth(auth),
            Packet::Connack(_) => Err(Violation::ConnackAgain),
            Packet::Connect(_)
            | Packet::Subscribe(_)
            | Packet::Unsubscribe(_)
            | Packet::Pingreq => Err(Violation::OnlyFromClients(packet.packet_type())),
        }
    }

    /// The first packet from the server must be CONNACK [MQTT-3.2.0-1]. AUTH packets may precede it if CONNECT asked
    /// for them (4.12).
    #[cold]
    fn handle_before_connack(&mut self, packet: Packet, now: Instant) -> Handled {
        let Connection::Connecting(connecting) = &self.connection else {
            return Err(match packet {
                Packet::Connack(_) => Violation::ConnackTooEarly,
                other => Violation::ConnackExpected(other.packet_type()),
            });
        };
        match packet {
            Packet::Connack(connack) => self.handle_connack(connack, now),
            Packet::Auth(auth) if connecting.requested.authentication_method.is_some() => {
                self.handle_auth(auth)
            }
            other => Err(Violation::ConnackExpected(other.packet_type())),
        }
    }

    fn handle_connack(&mut self, mut connack: Connack, now: Instant) -> Handled {
        let refused = connack.reason != 0;
        self.check_listed(PacketType::Connack, connack.reason)?;
        let method = PropertyId::AuthenticationMethod;
        let method = connack.properties.string(method);
        // [MQTT-4.12.0-5, MQTT-4.12.0-6]
        if !refused && method.is_some() && method != self.connection.authentication_method() {
            return Err(Violation::AuthenticationMethod(PacketType::Connack));
        }
        self.check_session_present(connack.session_present, refused)?;
        let mut news = Vec::new();
        if let Connection::Connecting(connecting) = mem::take(&mut self.connection)
            && !refused
        {
            let keep_alive = connack.properties.two_byte(PropertyId::ServerKeepAlive);
            let timers = &mut self.transport.timers;
            timers.set_connack(None);
            timers.set_keep_alive(keep_alive.unwrap_or(connecting.keep_alive));
            self.connection = Connection::Connected(Connected::new(connecting.requested, &connack));
            self.counters.connections += 1;
            let in_doubt = mem::take(&mut self.unanswered_connect);
            if !connack.session_present {
                self.loss_untold = true;
                news = self.begin_anew();
            } else if in_doubt {
                self.loss_untold = true;
                news = self.renew_subscriptions();
            } else if self.loss_untold {
                // The user may have made requests since then, trusting subscriptions that are lost.
                news = self.withdraw_requests();
            }
            connack.session_present &= !self.loss_untold;
            self.set_pace(now);
        }
        self.inbox.push(Event::Packet(Packet::Connack(connack)));
        for event in news {
            self.inbox.push(event);
        }
        Ok(())
    }

    /// Checks the session that the server says it has (3.2.2.1.1).
    ///
    /// A session unknown to this client is taken over. [MQTT-3.2.2-4] of 5.0 has a client without session state close
    /// the connection; 3.1.1 leaves the choice to the client. But here session state does not usually outlive its
    /// program. A program restarted with its old client identifier and without a clean start would be locked out, from
    /// the very subscriptions and messages that its session is for.
    ///
    /// The server may go on with exchanges of that earlier time. Their packet identifiers are unknown here: a repeated
    /// PUBLISH is delivered, PUBREL and PUBREC are answered (in 5.0 with "Packet Identifier not found"), PUBACK and
    /// PUBCOMP change nothing.
    fn check_session_present(&self, present: bool, refused: bool) -> Handled {
        match &self.connection {
            _ if !present => Ok(()),
            _ if refused => Err(Violation::RefusedWithSession),
            Connection::Connecting(connecting) if connecting.clean_start => {
                Err(Violation::CleanStartWithSession)
            }
            _ => Ok(()),
        }
    }

    /// The server has no session. Its messages of earlier connections mean nothing any more, and it knows none of our
    /// subscriptions and messages. Returns the news for the user.
    fn begin_anew(&mut self) -> Vec<Event> {
        self.incoming.session_lost();
        self.outgoing.session_lost();
        if let Some(store) = self.store() {
            store.session_lost();
        }
        self.renew_subscriptions()
    }

    /// The server's session lacks our subscriptions, or may lack them: it may have begun with a CONNECT whose CONNACK
    /// never came. Returns the news for the user: requests that now wait for subscriptions, and subscriptions that are
    /// not renewed.
    fn renew_subscriptions(&mut self) -> Vec<Event> {
        let mut news = self.withdraw_requests();
        if !self.settings.resubscribe {
            self.subscriptions.clear();
            return news;
        }
        let mut renewals = 0;
        for Subscribe {
            subscriptions,
            properties,
            ..
        } in self.subscriptions.renewals()
        {
            let mut allowed = Vec::new();
            for subscription in subscriptions {
                let alone = Subscribe {
                    packet_id: 0,
                    subscriptions: vec![subscription.clone()],
                    properties: properties.clone(),
                };
                match self.check_subscribe(&alone) {
                    Ok(()) => allowed.push(subscription),
                    Err(error) => {
                        let reason = NotRenewed::Request(error);
                        news.push(unrenewed(&subscription.filter, reason));
                    }
                }
            }
            renewals += self.renew(&allowed, &properties, &mut news);
        }
        self.outgoing.repeat_first(renewals);
        news
    }

    /// Begins to subscribe again, in one packet if the server accepts its size. Returns the number of packets.
    fn renew(
        &mut self,
        subscriptions: &[Subscription],
        properties: &Properties,
        failures: &mut Vec<Event>,
    ) -> usize {
        if subscriptions.is_empty() {
            return 0;
        }
        let error = match self.outgoing.next_id() {
            None => RequestError::NoPacketId,
            Some(id) => {
                let subscribe = Subscribe {
                    packet_id: id.get(),
                    subscriptions: subscriptions.to_vec(),
                    properties: properties.clone(),
                };
                let packet =
                    self.encode_stored(|version, out| encode_subscribe(&subscribe, version, out));
                match packet {
                    Ok(packet) => {
                        let renews = true;
                        let request = Request::Subscribe { subscribe, renews };
                        let progress = Progress::Repeat;
                        self.outgoing
                            .begin_request(id.get(), request, packet, progress);
                        self.outgoing.set_last_id(id.get());
                        return 1;
                    }
                    Err(_) if subscriptions.len() > 1 => {
                        let (some, others) = subscriptions.split_at(subscriptions.len() / 2);
                        return self.renew(some, properties, failures)
                            + self.renew(others, properties, failures);
                    }
                    Err(error) => error,
                }
            }
        };
        for subscription in subscriptions {
            let reason = NotRenewed::Request(error.clone());
            failures.push(unrenewed(&subscription.filter, reason));
        }
        0
    }

    #[inline]
    fn handle_publish(&mut self, mut publish: Publish) -> Handled {
        if !publish.properties.is_empty()
            && let Some(connected) = self.connection.connected_mut()
        {
            connected.resolve_topic_alias(&mut publish)?;
        }
        match publish.qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => {
                // Some servers of 3.1.1 repeat a message on the same connection. It counts as one.
                let before = self
                    .incoming
                    .deliver(publish.packet_id, Received::DeliveredOnce);
                if matches!(before, None | Some(Received::DeliveredBefore)) {
                    self.begin_incoming()?;
                }
            }
            QoS::ExactlyOnce => match self.incoming.get(publish.packet_id) {
                // The user gets an unacknowledged message of an earlier connection again, as with QoS 1.
                before @ (None | Some(Received::DeliveredOnce | Received::DeliveredBefore)) => {
                    if before != Some(Received::DeliveredOnce) {
                        self.begin_incoming()?;
                    }
                    let delivered = match before {
                        Some(Received::DeliveredBefore) => {
                            self.inbox.expect_repeat();
                            Received::DeliveredAgain
                        }
                        _ => Received::Delivered,
                    };
                    self.incoming.deliver(publish.packet_id, delivered);
                }
                Some(Received::Delivered | Received::DeliveredAgain) => return Ok(()),
                Some(Received::Acknowledged) => {
                    self.answer(PacketType::Pubrec, publish.packet_id, true);
                    return Ok(());
                }
            },
        }
        self.counters.messages_received += 1;
        self.inbox.push(Event::Packet(Packet::Publish(publish)));
        Ok(())
    }

    /// Counts a message that needs an acknowledgement against our receive maximum [MQTT-3.3.4-9].
    fn begin_incoming(&mut self) -> Handled {
        let unacknowledged = self.incoming.count();
        let requested = self.connection.requested();
        match requested.and_then(|requested| requested.receive_maximum) {
            Some(maximum) if unacknowledged > u32::from(maximum) => {
                Err(Violation::ReceiveMaximum(maximum))
            }
            _ => Ok(()),
        }
    }

    fn handle_puback(&mut self, ack: Ack) -> Handled {
        self.check_ack(PacketType::Puback, &ack)?;
        let ended = self.end_exchange(PacketType::Puback, ack.packet_id)?;
        // An unexpected PUBACK is an event too, unless its identifier is in use: by an exchange that awaits no answer,
        // or by an answer that the user has not taken.
        if ended || !self.outgoing.in_use(ack.packet_id) {
            self.deliver_answer(Event::Packet(Packet::Puback(ack)));
        }
        Ok(())
    }

    /// Every PUBREC without an error is answered with PUBREL. Only the first of an exchange is an event.
    fn handle_pubrec(&mut self, ack: Ack) -> Handled {
        self.check_ack(PacketType::Pubrec, &ack)?;
        let id = ack.packet_id;
        let awaited = self.outgoing.awaited(id);
        match awaited {
            None | Some(Phase::Pubrec | Phase::Pubcomp) => {}
            Some(other) => return Err(awaits_another(PacketType::Pubrec, id, other)),
        }
        if is_refusal(ack.reason) {
            if awaited.is_some() {
                self.outgoing.end(id);
                self.done(id);
            }
        } else {
            if awaited.is_some() {
                let counts = self.version == Version::V50;
                self.outgoing.released(id, counts);
                if let Some(store) = self.store() {
                    store.released(id);
                }
            }
            self.answer(PacketType::Pubrel, id, awaited.is_some());
        }
        if awaited == Some(Phase::Pubrec) {
            self.deliver_answer(Event::Packet(Packet::Pubrec(ack)));
        }
        Ok(())
    }

    /// Every PUBREL is answered with PUBCOMP.
    fn handle_pubrel(&mut self, ack: Ack) -> Handled {
        self.check_ack(PacketType::Pubrel, &ack)?;
        let known = match self.incoming.get(ack.packet_id) {
            None | Some(Received::DeliveredOnce) => false,
            Some(_) => {
                if let Some(store) = self.store() {
                    store.answered(ack.packet_id);
                }
                self.incoming.end(ack.packet_id)
            }
        };
        self.answer(PacketType::Pubcomp, ack.packet_id, known);
        Ok(())
    }

    fn handle_pubcomp(&mut self, ack: Ack) -> Handled {
        self.check_ack(PacketType::Pubcomp, &ack)?;
        self.end_exchange(PacketType::Pubcomp, ack.packet_id)?;
        Ok(())
    }

    #[cold]
    fn handle_suback(
        &mut self,
        kind: PacketType,
        suback: Suback,
        packet: fn(Suback) -> Packet,
    ) -> Handled {
        for reason in &suback.reasons {
            self.check_listed(kind, *reason)?;
        }
        self.check_problem_information(kind, &suback.properties)?;
        let id = suback.packet_id;
        match self.outgoing.awaited(id) {
            Some(phase) if phase.awaits() != kind => return Err(awaits_another(kind, id, phase)),
            // An unexpected answer is an event too, unless its identifier is in use, as for PUBACK.
            None if self.outgoing.in_use(id) => return Ok(()),
            Some(_) | None => {}
        }
        let reasons = &suback.reasons;
        // One reason code for each topic filter [MQTT-3.8.4-6, MQTT-3.11.3-1]. An UNSUBACK of 3.1.1 has none.
        let asked = self.outgoing.get(id);
        let filters = match asked.and_then(|exchange| exchange.request.as_deref()) {
            Some(Request::Subscribe { subscribe, .. }) => subscribe.subscriptions.len(),
            Some(Request::Unsubscribe(unsubscribe)) if self.version == Version::V50 => {
                unsubscribe.filters.len()
            }
            _ => reasons.len(),
        };
        if filters != reasons.len() {
            return Err(Violation::ReasonCodeCount {
                packet: kind,
                expected: filters,
                got: reasons.len(),
            });
        }
        let ended = self.outgoing.end(id);
        let mut failures = Vec::new();
        if self.settings.resubscribe
            && let Some(exchange) = &ended
        {
            if let Some(renewed) = exchange.renews() {
                failures = refused_renewals(renewed, reasons);
            }
            match exchange.request.as_deref() {
                Some(Request::Subscribe { subscribe, .. }) => {
                    self.subscriptions.answered(subscribe, reasons);
                    for subscription in &subscribe.subscriptions {
                        self.note_subscription(&subscription.filter);
                    }
                }
                Some(Request::Unsubscribe(unsubscribe)) => {
                    self.subscriptions.ended(unsubscribe, reasons);
                    for filter in &unsubscribe.filters {
                        self.note_subscription(filter);
                    }
                }
                None => {}
            }
        }
        self.deliver_answer(Event::Packet(packet(suback)));
        for failure in failures {
            self.inbox.push(failure);
        }
        Ok(())
    }

    /// Keeps a subscription in the store, or that there is none any more.
    fn note_subscription(&mut self, filter: &Str) {
        if let Some(kept) = &mut self.kept {
            let note = self.subscriptions.note(filter, self.version);
            let note = note.as_deref().unwrap_or_default();
            kept.store.note(filter.as_bytes(), note);
        }
    }

    #[cold]
    fn handle_disconnect(&mut self, disconnect: Disconnect) -> Handled {
        if self.version == Version::V311 {
            return Err(Violation::OnlyFromClients(PacketType::Disconnect));
        }
        self.check_listed(PacketType::Disconnect, disconnect.reason)?;
        if disconnect.reason == DISCONNECT_WITH_WILL {
            return Err(Violation::ReasonCode(
                PacketType::Disconnect,
                disconnect.reason,
            ));
        }
        let expiry = PropertyId::SessionExpiryInterval;
        if disconnect.properties.first(expiry).is_some() {
            // [MQTT-3.14.2-2]
            return Err(Violation::SessionExpiry);
        }
        self.end_connection();
        self.inbox
            .push(Event::Packet(Packet::Disconnect(disconnect)));
        Ok(())
    }

    #[cold]
    fn handle_auth(&mut self, auth: Disconnect) -> Handled {
        let kind = PacketType::Auth;
        let Some(method) = self.connection.authentication_method() else {
            return Err(Violation::NoAuthenticationMethod);
        };
        // [MQTT-4.12.0-5]
        let answered = auth.properties.string(PropertyId::AuthenticationMethod);
        // The method may be omitted only together with everything else (3.15.2.1, 3.15.2.2.2).
        if answered.is_none() && (auth.reason != 0 || !auth.properties.is_empty()) {
            return Err(Violation::AuthenticationMethodMissing);
        }
        if answered.is_some_and(|answered| answered != method) {
            return Err(Violation::AuthenticationMethod(kind));
        }
        self.check_listed(kind, auth.reason)?;
        self.check_problem_information(kind, &auth.properties)?;
        let unexpected = match self.state() {
            // Before CONNACK, CONNACK itself reports success.
            State::Connecting => auth.reason != CONTINUE_AUTHENTICATION,
            _ => auth.reason == RE_AUTHENTICATE,
        };
        if unexpected {
            return Err(Violation::ReasonCode(kind, auth.reason));
        }
        self.inbox.push(Event::Packet(Packet::Auth(auth)));
        Ok(())
    }

    /// Checks that apply to PUBACK, PUBREC, PUBREL and PUBCOMP alike.
    #[inline]
    fn check_ack(&self, packet: PacketType, ack: &Ack) -> Handled {
        self.check_listed(packet, ack.reason)?;
        self.check_problem_information(packet, &ack.properties)
    }

    /// Without Request Problem Information only PUBLISH, CONNACK and DISCONNECT may have a reason string or user
    /// properties (3.1.2.11.7).
    #[inline]
    fn check_problem_information(&self, packet: PacketType, properties: &Properties) -> Handled {
        match self.connection.requested() {
            Some(requested) if requested.no_problem_information => {
                refuse_problem_information(packet, properties)
            }
            _ => Ok(()),
        }
    }

    /// Refuses a reason code that the standard does not list for the packet.
    fn check_listed(&self, packet: PacketType, reason: u8) -> Handled {
        match reason_listed(self.version, packet, reason) {
            true => Ok(()),
            false => Err(Violation::ReasonCode(packet, reason)),
        }
    }

    /// Ends the exchange that this packet answers. Returns whether there was one. An unexpected answer changes nothing;
    /// an answer of the wrong kind breaks the protocol. The exception is 3.1.1, which has no maximum QoS: there a
    /// server such as RabbitMQ answers a QoS 2 message with PUBACK, and so tells that it took it as QoS 1.
    fn end_exchange(&mut self, packet: PacketType, id: u16) -> Result<bool, Violation> {
        match self.outgoing.awaited(id) {
            Some(other)
                if other.awaits() != packet
                    && (self.version, other, packet)
                        != (Version::V311, Phase::Pubrec, PacketType::Puback) =>
            {
                Err(awaits_another(packet, id, other))
            }
            Some(_) => {
                self.outgoing.end(id);
                self.done(id);
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Sends PUBREC, PUBREL or PUBCOMP. In 5.0 its reason code says if the packet identifier belongs to no exchange.
    fn answer(&mut self, kind: PacketType, packet_id: u16, known: bool) {
        self.transport.count_answer();
        if known || self.version == Version::V311 {
            encode_ack(kind, packet_id, &mut self.transport.transmit);
            return;
        }
        let ack = Ack {
            packet_id,
            reason: PACKET_IDENTIFIER_NOT_FOUND,
            properties: Properties::new(),
        };
        self.reply(&match kind {
            PacketType::Pubrel => Packet::Pubrel(ack),
            _ => Packet::Pubcomp(ack),
        });
    }
}

#[cold]
fn refuse_problem_information(packet: PacketType, properties: &Properties) -> Handled {
    for id in [PropertyId::ReasonString, PropertyId::UserProperty] {
        if properties.first(id).is_some() {
            return Err(Violation::ProblemInformation(packet, id));
        }
    }
    Ok(())
}

/// The news for the user in the answer to a SUBSCRIBE that renews.
fn refused_renewals(subscribe: &Subscribe, reasons: &[u8]) -> Vec<Event> {
    let answered = subscribe.subscriptions.iter().zip(reasons);
    answered
        .filter(|(_, reason)| is_refusal(**reason))
        .map(|(subscription, reason)| unrenewed(&subscription.filter, NotRenewed::Refused(*reason)))
        .collect()
}

fn awaits_another(packet: PacketType, packet_id: u16, phase: Phase) -> Violation {
    Violation::Unexpected {
        packet,
        packet_id,
        awaited: phase.awaits(),
    }
}
