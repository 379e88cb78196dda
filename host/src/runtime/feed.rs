//! Events that a guest takes one after another within one call
//! (`wit/pulling.wit`). Each is an invocation of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::batch::{Hand, Packing};
use super::bindings::events as wit;
use super::bindings::imports::tidemill::service::event_source;
use super::context::Context;
use super::memory::Refused;
use crate::effects::Effects;
use crate::invocation::{Event, Failure, Identity};
use crate::limits::Hits;
use crate::state::View;

/// Where a call's events come from, and where goes what becomes of them.
pub trait Feed: Send {
    /// The next event, if there is one for this call. Asked when the one before has
    /// ended.
    fn next(&mut self, now: Instant) -> Option<Given<'_>>;

    /// Shows the events that will be next, and which attempts at them these are, as
    /// long as `see` says to go on. Whether they are to run is said when it is their
    /// turn.
    fn ahead(&self, see: &mut dyn FnMut(&Event, u32) -> bool);

    /// The event that was given last has ended, and hit these limits.
    fn ended(&mut self, ran: Result<Effects, Failure>, hits: Hits, now: Instant);
}

/// An event for a guest.
pub struct Given<'f> {
    /// The event.
    pub event: &'f Event,
    /// How often it has been run, with this time.
    pub attempt: u32,
    /// The state that it sees.
    pub view: View,
}

/// A call in which events are pulled.
pub(super) struct Pulling {
    pub(super) feed: Arc<Mutex<dyn Feed>>,
    /// How long one may take.
    pub(super) time: Duration,
    /// How many it may still take.
    pub(super) left: u32,
    pub(super) taken: u32,
    /// Whether one is running.
    pub(super) runs: bool,
    /// What the guest has already.
    pub(super) hand: Hand,
}

impl Context {
    /// The event that runs has ended.
    pub(super) fn pulled(&mut self, ran: Result<(), Failure>, now: Instant) {
        self.view = View::NotGranted;
        let effects = std::mem::take(&mut self.effects);
        let hits = self.hits;
        if let Some(pulling) = &mut self.pulling
            && std::mem::take(&mut pulling.runs)
        {
            pulling.feed.lock().ended(ran.map(|()| effects), hits, now);
        }
    }

    /// What a handler said of its event.
    pub(super) fn told(&self, said: Result<(), wit::Failure>) -> Result<(), Failure> {
        said.map_err(|failure| self.crowded().unwrap_or_else(|| failed(failure)))
    }

    /// What it means that a call failed which did not get the memory that it
    /// asked for, because others had it.
    pub(super) fn crowded(&self) -> Option<Failure> {
        match self.memory.refused {
            Some(Refused::Crowded(limit)) => Some(Failure::Crowded { limit }),
            _ => None,
        }
    }
}

impl event_source::Host for Context {
    fn next(&mut self, outcome: Option<Result<(), wit::Failure>>) -> event_source::Turn {
        // Elsewhere than in `run` there is nothing to end.
        if self.pulling.is_none() {
            return event_source::Turn::End;
        }
        let said = match outcome {
            Some(said) => self.told(said),
            None => Err(untold()),
        };
        // One event ends when the next begins: the clock is read once for both.
        let now = Instant::now();
        self.pulled(said, now);
        self.take(now).unwrap_or(event_source::Turn::End)
    }
}

impl Context {
    /// Begins the next event, if there is one.
    fn take(&mut self, now: Instant) -> Option<event_source::Turn> {
        let pulling = self.pulling.as_mut()?;
        pulling.left = pulling.left.checked_sub(1)?;
        let (feed, time) = (pulling.feed.clone(), pulling.time);
        let mut feed = feed.lock();
        let Given {
            event,
            attempt,
            view,
        } = feed.next(now)?;
        pulling.taken += 1;
        pulling.runs = true;
        let identity = Identity::Event(event.topic.clone(), event.partition, event.offset);
        let turn = if pulling.hand.begins(event) {
            event_source::Turn::Next
        } else {
            let mut packing = Packing::new(event, attempt, pulling.left.saturating_add(1));
            // One that has failed is alone, lest others make it fail again.
            if attempt == 1 {
                feed.ahead(&mut |event, attempt| attempt == 1 && packing.add(event, attempt));
            }
            let (batch, hand) = packing.done();
            pulling.hand = hand;
            event_source::Turn::Batch(batch)
        };
        self.begin(view, identity, now + time);
        Some(turn)
    }
}

/// A guest has gone on, or come to its end, without a word on the event that it
/// had.
pub(super) fn untold() -> Failure {
    Failure::Trap("its event-loop did not say what came of this event".to_owned())
}

/// An event as the contract has it.
pub(super) fn of_event(event: &Event, attempt: u32) -> wit::Event {
    wit::Event {
        topic: event.topic.to_string(),
        partition: event.partition.try_into().unwrap_or_default(),
        offset: event.offset.try_into().unwrap_or_default(),
        timestamp: event.timestamp.and_then(|time| time.try_into().ok()),
        key: event.key.as_deref().map(<[u8]>::to_vec),
        value: event.value.as_deref().map(<[u8]>::to_vec),
        headers: event
            .headers
            .iter()
            .map(|(name, value)| wit::Header {
                name: name.clone(),
                value: value.as_deref().map(<[u8]>::to_vec),
            })
            .collect(),
        attempt,
    }
}

/// What a handler says of an event that it could not handle.
fn failed(failure: wit::Failure) -> Failure {
    match failure {
        wit::Failure::Retry(why) => Failure::Retry(why),
        wit::Failure::RetryAfter(later) => {
            Failure::RetryAfter(later.reason, Duration::from_millis(later.after))
        }
        wit::Failure::Reject(why) => Failure::Reject(why),
    }
}
