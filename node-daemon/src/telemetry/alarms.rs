//! What is wrong at the moment: raised and cleared by key, told as events, shown by `GetHost`. Any task.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::lock;
use crate::events::Events;
use crate::model::NewEvent;

/// The alarms of this node; cheap to clone.
#[derive(Clone)]
pub struct Alarms {
    events: Events,
    raised: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Alarms {
    pub(super) fn new(events: Events) -> Self {
        Self { events, raised: Arc::default() }
    }

    /// Raises an alarm, or says it in other words. Keys are short and stable: `disk-space`, `isolation/ID`. Told as
    /// an event once, until it was cleared.
    pub async fn raise(&self, key: &str, sentence: &str) {
        if lock(&self.raised).insert(key.to_owned(), sentence.to_owned()).is_none() {
            tracing::warn!("Alarm {key}: {sentence}");
            self.events.tell(NewEvent::alarm("host.alarm", sentence).with("key", key)).await;
        }
    }

    /// Ends an alarm; nothing happens when there is none.
    pub async fn clear(&self, key: &str) {
        let was = lock(&self.raised).remove(key);
        if let Some(sentence) = was {
            let message = format!("No longer: {sentence}");
            self.events.tell(NewEvent::info("host.alarm-cleared", message).with("key", key)).await;
        }
    }

    /// Whether this alarm goes on.
    pub fn is_raised(&self, key: &str) -> bool {
        lock(&self.raised).contains_key(key)
    }

    /// All that go on, one sentence each, in the order of their keys.
    pub fn sentences(&self) -> Vec<String> {
        lock(&self.raised).values().cloned().collect()
    }
}
