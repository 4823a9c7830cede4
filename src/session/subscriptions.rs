//! The subscriptions that the server has granted. They are renewed when the server has lost them.

use std::collections::HashMap;

use bytes::BytesMut;

use crate::codec::{
    Decoder, Packet, Properties, Str, Subscribe, Subscription, Unsubscribe, Version,
    encode_subscribe, reason,
};

/// The most topic filters in a SUBSCRIBE that renews. Some servers allow no more.
const FILTERS_PER_PACKET: usize = 8;

struct Granted {
    subscription: Subscription,
    properties: Properties,
    /// The place in the order of granting.
    sequence: u64,
}

/// Granted subscriptions by topic filter.
#[derive(Default)]
pub(super) struct Subscriptions {
    granted: HashMap<Str, Granted>,
    last: u64,
}

impl Subscriptions {
    /// The server has answered a SUBSCRIBE. Each reason code that is no refusal grants a subscription.
    pub(super) fn answered(&mut self, subscribe: &Subscribe, reasons: &[u8]) {
        for (subscription, reason) in subscribe.subscriptions.iter().zip(reasons) {
            let filter = &subscription.filter;
            if reason::is_refusal(*reason) {
                self.granted.remove(filter);
                continue;
            }
            self.last += 1;
            let granted = Granted {
                subscription: subscription.clone(),
                properties: subscribe.properties.clone(),
                sequence: self.last,
            };
            self.granted.insert(filter.clone(), granted);
        }
    }

    /// The server has answered an UNSUBSCRIBE. In 3.1.1 the answer has no reason codes.
    pub(super) fn ended(&mut self, unsubscribe: &Unsubscribe, reasons: &[u8]) {
        for (i, filter) in unsubscribe.filters.iter().enumerate() {
            if !reasons.get(i).is_some_and(|code| reason::is_refusal(*code)) {
                self.granted.remove(filter);
            }
        }
    }

    /// A granted subscription as bytes, from which [`restore`](Self::restore) makes it again.
    pub(super) fn note(&self, filter: &Str, version: Version) -> Option<Vec<u8>> {
        let granted = self.granted.get(filter)?;
        let subscribe = Subscribe {
            packet_id: 1,
            subscriptions: vec![granted.subscription.clone()],
            properties: granted.properties.clone(),
        };
        let mut packet = BytesMut::new();
        encode_subscribe(&subscribe, version, &mut packet).ok()?;
        let mut bytes = granted.sequence.to_be_bytes().to_vec();
        bytes.extend_from_slice(&packet);
        Some(bytes)
    }

    /// Takes a subscription that an earlier process has [noted](Self::note). Other bytes change nothing.
    pub(super) fn restore(&mut self, note: &[u8], version: Version) {
        let Some((sequence, packet)) = note.split_first_chunk() else {
            return;
        };
        let packet = Decoder::new(version).decode(&mut BytesMut::from(packet));
        if let Ok(Some(Packet::Subscribe(subscribe))) = packet
            && let [subscription] = &subscribe.subscriptions[..]
        {
            let sequence = u64::from_be_bytes(*sequence);
            self.last = self.last.max(sequence);
            let granted = Granted {
                subscription: subscription.clone(),
                properties: subscribe.properties.clone(),
                sequence,
            };
            self.granted.insert(subscription.filter.clone(), granted);
        }
    }

    /// Forgets all subscriptions.
    pub(super) fn clear(&mut self) {
        self.granted.clear();
    }

    /// SUBSCRIBE packets, without packet identifiers, that renew all subscriptions in their order.
    pub(super) fn renewals(&self) -> Vec<Subscribe> {
        let mut granted: Vec<&Granted> = self.granted.values().collect();
        granted.sort_unstable_by_key(|granted| granted.sequence);
        granted
            .chunk_by(|a, b| a.properties == b.properties)
            .flat_map(|alike| alike.chunks(FILTERS_PER_PACKET))
            .map(|few| Subscribe {
                packet_id: 0,
                subscriptions: few.iter().map(|g| g.subscription.clone()).collect(),
                properties: few[0].properties.clone(),
            })
            .collect()
    }
}
