//! A producer whose reports are taken in by a thread of its own.
//!
//! The crate's `ThreadedProducer` is the same, but looks ten times a second whether
//! it has to end, and each time spins for the last millisecond: a hundredth of a
//! core for each producer at rest.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::producer::{BaseProducer, ProducerContext};

use super::cluster::KafkaError;

/// How often the thread looks whether it has to end. Reports do not wait for that.
const PERIOD: Duration = Duration::from_secs(1);

/// The thread, and the producer with it, ends soon after this is dropped.
pub(super) struct Polled<C: ProducerContext + 'static> {
    producer: Arc<BaseProducer<C>>,
    ended: Arc<AtomicBool>,
}

impl<C: ProducerContext + 'static> Polled<C> {
    pub(super) fn start(producer: Arc<BaseProducer<C>>) -> Result<Polled<C>, KafkaError> {
        let ended = Arc::new(AtomicBool::new(false));
        let (polled, ending) = (producer.clone(), ended.clone());
        let poll = move || {
            while !ending.load(Ordering::Acquire) {
                polled.poll(PERIOD);
            }
        };
        std::thread::Builder::new()
            .name("tidemill-acks".to_owned())
            .spawn(poll)
            .map_err(|error| KafkaError::Config(error.to_string()))?;
        Ok(Polled { producer, ended })
    }

    pub(super) fn shared(&self) -> Arc<BaseProducer<C>> {
        self.producer.clone()
    }
}

impl<C: ProducerContext + 'static> Deref for Polled<C> {
    type Target = BaseProducer<C>;

    fn deref(&self) -> &BaseProducer<C> {
        &self.producer
    }
}

impl<C: ProducerContext + 'static> Drop for Polled<C> {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
    }
}
