//! The subscriptions that the server has granted, to be renewed when it has lost them.

use std::collections::HashMap;

use crate::codec::{Properties, Str, Subscribe, Subscription, Unsubscribe, reason};

/// Most topic filters in a SUBSCRIBE that renews: some servers allow no more.
const FILTERS_PER_PACKET: usize = 8;

struct Granted {
    subscription: Subscription,
    properties: Properties,
    /// Place in the order in which they were granted.
    sequence: u64,
}

/// Granted subscriptions by topic filter.
#[derive(Default)]
pub(super) struct Subscriptions {
    granted: HashMap<Str, Granted>,
    last: u64,
}

impl Subscriptions {
    /// The server has answered: a reason code that does not refuse grants.
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

    /// The server has answered; 3.1.1 has no reason codes here.
    pub(super) fn ended(&mut self, unsubscribe: &Unsubscribe, reasons: &[u8]) {
        for (i, filter) in unsubscribe.filters.iter().enumerate() {
            if !reasons.get(i).is_some_and(|code| reason::is_refusal(*code)) {
                self.granted.remove(filter);
            }
        }
    }

    /// Forgets them all.
    pub(super) fn clear(&mut self) {
        self.granted.clear();
    }

    /// SUBSCRIBE packets, without packet identifiers, for all of them in their order.
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
