//! What the rdkafka crate has no safe form for: a member's generation in its
//! group, what became of a call that belongs to a transaction, records read in
//! batches, with the offset of a partition's end, a token for a client, a key's
//! partition, and a flush that leaves polling to others.
//!
//! Everything here is a thin form of one librdkafka function and decides nothing.

use std::ffi::{CStr, CString};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::admin::AdminClient;
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, StreamConsumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{TopicPartitionList, bindings};

/// A membership in a consumer group at one moment: group, member, generation.
/// Offsets that are sent with it are taken by the broker only while it lasts.
#[derive(Debug)]
pub struct Membership(*mut bindings::rd_kafka_consumer_group_metadata_t);

// SAFETY: it is a copy that belongs to this value alone, and only read.
unsafe impl Send for Membership {}
// SAFETY: as above.
unsafe impl Sync for Membership {}

impl Drop for Membership {
    fn drop(&mut self) {
        // SAFETY: librdkafka made it, for this value, which is dropped once.
        unsafe { bindings::rd_kafka_consumer_group_metadata_destroy(self.0) }
    }
}

impl Membership {
    /// The membership of a consumer; none if it has none that the broker could
    /// check. (Offsets without a generation would be taken from anyone.)
    pub(super) fn of<C: ConsumerContext>(consumer: &impl Consumer<C>) -> Option<Membership> {
        let client = consumer.client().native_ptr();
        // SAFETY: the consumer lives. What comes back is the caller's to free, or
        // null without a group.
        let metadata = unsafe { bindings::rd_kafka_consumer_group_metadata(client) };
        if metadata.is_null() {
            return None;
        }
        let membership = Membership(metadata);
        // SAFETY: not null, and alive in `membership`. The member's name is a C
        // string inside of it, or null.
        let (generation, named) = unsafe {
            let member = bindings::rd_kafka_consumer_group_metadata_member_id(membership.0);
            (
                bindings::rd_kafka_consumer_group_metadata_generation_id(membership.0),
                !member.is_null() && !CStr::from_ptr(member).is_empty(),
            )
        };
        (generation > 0 && named).then_some(membership)
    }

    /// The member's id.
    pub(super) fn member(&self) -> String {
        // SAFETY: it is alive, and its member's name is a C string (see `of`).
        let member = unsafe {
            let member = bindings::rd_kafka_consumer_group_metadata_member_id(self.0);
            CStr::from_ptr(member)
        };
        member.to_string_lossy().into_owned()
    }

    /// Adds offsets to the running transaction of a producer.
    pub(super) fn send_offsets<C: ProducerContext>(
        &self,
        producer: &impl Producer<C>,
        offsets: &TopicPartitionList,
        timeout: Duration,
    ) -> Result<(), TransactionError> {
        let timeout = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        let client = producer.client().native_ptr();
        // SAFETY: producer, list and membership live, and are not kept.
        let error = unsafe {
            bindings::rd_kafka_send_offsets_to_transaction(client, offsets.ptr(), self.0, timeout)
        };
        // SAFETY: it is what librdkafka returned for us.
        unsafe { TransactionError::take(error) }
    }
}

/// Why a call that belongs to a transaction failed, and what may be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub(super) struct TransactionError {
    pub(super) code: RDKafkaErrorCode,
    pub(super) cause: String,
    /// The same call may be made again.
    pub(super) retriable: bool,
    /// The transaction can only be aborted.
    pub(super) abort: bool,
    /// The producer can do nothing more.
    pub(super) fatal: bool,
}

impl TransactionError {
    /// # Safety
    /// `error` is null, or was returned by librdkafka and is nobody else's.
    unsafe fn take(error: *mut bindings::rd_kafka_error_t) -> Result<(), TransactionError> {
        if error.is_null() {
            return Ok(());
        }
        // SAFETY: not null, and alive until it is destroyed below, once. Its text
        // is a C string inside of it.
        unsafe {
            let taken = TransactionError {
                code: bindings::rd_kafka_error_code(error).into(),
                cause: CStr::from_ptr(bindings::rd_kafka_error_string(error))
                    .to_string_lossy()
                    .into_owned(),
                retriable: bindings::rd_kafka_error_is_retriable(error) != 0,
                abort: bindings::rd_kafka_error_txn_requires_abort(error) != 0,
                fatal: bindings::rd_kafka_error_is_fatal(error) != 0,
            };
            bindings::rd_kafka_error_destroy(error);
            Err(taken)
        }
    }
}

/// A call on a transactional producer, by its librdkafka function.
#[derive(Clone, Copy, Debug)]
pub(super) enum Call {
    Init,
    /// Takes no time.
    Begin,
    Commit,
    Abort,
}

/// Makes such a call. Unlike the rdkafka crate's own, it does not poll first, for
/// 100 ms at a time: delivery reports are polled by a thread of their own.
pub(super) fn call<C: ProducerContext>(
    producer: &impl Producer<C>,
    call: Call,
    timeout: Duration,
) -> Result<(), TransactionError> {
    let client = producer.client().native_ptr();
    let timeout = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the producer lives.
    let error = unsafe {
        match call {
            Call::Begin => bindings::rd_kafka_begin_transaction(client),
            Call::Init => bindings::rd_kafka_init_transactions(client, timeout),
            Call::Commit => bindings::rd_kafka_commit_transaction(client, timeout),
            Call::Abort => bindings::rd_kafka_abort_transaction(client, timeout),
        }
    };
    // SAFETY: it is what librdkafka returned for us.
    unsafe { TransactionError::take(error) }
}

/// Has librdkafka send all that it was given without waiting for more, and waits
/// until it is acknowledged, for so long at most. Unlike the rdkafka crate's own, it
/// does not poll: a thread does.
pub(super) fn flush<C: ProducerContext>(producer: &impl Producer<C>, timeout: Duration) {
    let client = producer.client().native_ptr();
    let timeout = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the producer lives. All that it can say is that time is up.
    unsafe { bindings::rd_kafka_flush(client, timeout) };
}

/// A client of any kind.
pub(super) trait Native: Send + Sync {
    /// librdkafka's client, alive as long as this is.
    fn native(&self) -> *mut bindings::rd_kafka_t;
}

impl<C: ConsumerContext> Native for BaseConsumer<C> {
    fn native(&self) -> *mut bindings::rd_kafka_t {
        self.client().native_ptr()
    }
}

impl<C: ConsumerContext> Native for StreamConsumer<C> {
    fn native(&self) -> *mut bindings::rd_kafka_t {
        self.client().native_ptr()
    }
}

impl<C: ProducerContext + 'static> Native for BaseProducer<C> {
    fn native(&self) -> *mut bindings::rd_kafka_t {
        self.client().native_ptr()
    }
}

impl<C: ClientContext> Native for AdminClient<C> {
    fn native(&self) -> *mut bindings::rd_kafka_t {
        self.inner().native_ptr()
    }
}

/// Gives a client an OAUTHBEARER token, with the time in milliseconds since 1970
/// until which it is good. The crate's own way has no extensions, and reaches only
/// clients that are polled.
pub(super) fn set_token(
    client: &dyn Native,
    token: &CStr,
    principal: &CStr,
    until_ms: i64,
    extensions: &[CString],
) -> Result<(), String> {
    let mut pairs: Vec<_> = extensions.iter().map(|part| part.as_ptr()).collect();
    let mut why = [0; 256];
    // SAFETY: the client and all texts live, and librdkafka copies what it keeps.
    // It writes no more than it is told there is room for, with a 0 at the end.
    let (error, why) = unsafe {
        let error = bindings::rd_kafka_oauthbearer_set_token(
            client.native(),
            token.as_ptr(),
            until_ms,
            principal.as_ptr(),
            pairs.as_mut_ptr(),
            pairs.len(),
            why.as_mut_ptr(),
            why.len(),
        );
        (error, CStr::from_ptr(why.as_ptr()))
    };
    match error {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        _ => Err(why.to_string_lossy().into_owned()),
    }
}

/// Whether a client is answered when it asks for metadata of what it knows already.
pub(super) fn is_answered(client: &dyn Native, patience: Duration) -> bool {
    let patience = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    let mut metadata = ptr::null();
    // SAFETY: the client lives. No topic is named. What is written to `metadata` is
    // this function's to free, once, and nothing if there is an error.
    unsafe {
        let error = bindings::rd_kafka_metadata(
            client.native(),
            0,
            ptr::null_mut(),
            &mut metadata,
            patience,
        );
        if !metadata.is_null() {
            bindings::rd_kafka_metadata_destroy(metadata);
        }
        error == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
    }
}

/// Has a client know these brokers, if it does not.
pub(super) fn add_brokers(client: &dyn Native, servers: &CStr) {
    // SAFETY: the client and the text live, and librdkafka copies what it keeps.
    unsafe {
        bindings::rd_kafka_brokers_add(client.native(), servers.as_ptr());
    }
}

/// The high watermark of a partition, as the last answer to a fetch had it.
fn known_end(client: &Client<impl ClientContext>, topic: &str, partition: i32) -> Option<i64> {
    let topic = CString::new(topic).ok()?;
    let (mut low, mut high) = (-1, -1);
    let client = client.native_ptr();
    // SAFETY: the client, the name and the numbers live.
    let error = unsafe {
        bindings::rd_kafka_get_watermark_offsets(
            client,
            topic.as_ptr(),
            partition,
            &raw mut low,
            &raw mut high,
        )
    };
    (error == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some(high)
}

/// The records that a consumer gets.
pub(super) struct Records<C: ConsumerContext> {
    queue: *mut bindings::rd_kafka_queue_t,
    consumer: Arc<BaseConsumer<C>>,
}

// SAFETY: the consumer may be sent, and librdkafka's queues may be used by any
// thread.
unsafe impl<C: ConsumerContext> Send for Records<C> {}

impl<C: ConsumerContext> Drop for Records<C> {
    fn drop(&mut self) {
        // SAFETY: the reference is this value's, which is dropped once, and the
        // consumer is dropped after it.
        unsafe { bindings::rd_kafka_queue_destroy(self.queue) }
    }
}

/// What was read.
pub(super) enum Read<'m> {
    /// A record.
    Record(Record<'m>),
    /// Everything before this offset has been read: it is the partition's end.
    End(i64),
    /// Reading failed.
    Failed(RDKafkaErrorCode),
}

/// A record in librdkafka's hands.
pub(super) struct Record<'m>(&'m bindings::rd_kafka_message_t);

impl Record<'_> {
    /// The offset.
    pub(super) fn offset(&self) -> i64 {
        self.0.offset
    }

    /// The key, if any.
    pub(super) fn key(&self) -> Option<Bytes> {
        // SAFETY: the key is as long as librdkafka says, and lives as long as the
        // message.
        unsafe { copy(self.0.key, self.0.key_len) }
    }

    /// The value, if any.
    pub(super) fn value(&self) -> Option<Bytes> {
        // SAFETY: as the key.
        unsafe { copy(self.0.payload, self.0.len) }
    }

    /// Milliseconds since the Unix epoch, if the record has a time.
    pub(super) fn timestamp(&self) -> Option<i64> {
        let mut kind = bindings::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message lives, and there is room for the answer.
        let time = unsafe { bindings::rd_kafka_message_timestamp(self.0, &raw mut kind) };
        (time != -1).then_some(time)
    }

    /// The headers.
    pub(super) fn headers(&self) -> Vec<(String, Option<Bytes>)> {
        let mut headers = ptr::null_mut();
        // SAFETY: the message lives; the headers are its own.
        let error = unsafe { bindings::rd_kafka_message_headers(self.0, &raw mut headers) };
        if error != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Vec::new();
        }
        let header = |index| {
            let (mut name, mut value, mut length) = (ptr::null(), ptr::null(), 0);
            // SAFETY: the headers live as long as the message. What is told is
            // theirs: a name that ends with a zero, and a value of that length.
            unsafe {
                let error = bindings::rd_kafka_header_get_all(
                    headers,
                    index,
                    &raw mut name,
                    &raw mut value,
                    &raw mut length,
                );
                (error == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| {
                    let name = CStr::from_ptr(name).to_string_lossy().into_owned();
                    (name, copy(value, length))
                })
            }
        };
        (0..).map_while(header).collect()
    }
}

/// A copy of bytes that librdkafka has.
///
/// # Safety
/// `data` is null or points to as many bytes.
unsafe fn copy(data: *const std::ffi::c_void, length: usize) -> Option<Bytes> {
    // SAFETY: the caller's promise.
    let bytes =
        (!data.is_null()).then(|| unsafe { std::slice::from_raw_parts(data.cast(), length) });
    bytes.map(Bytes::copy_from_slice)
}

impl<C: ConsumerContext> Records<C> {
    /// Those of this consumer; none if it belongs to no group.
    pub(super) fn of(consumer: Arc<BaseConsumer<C>>) -> Option<Records<C>> {
        // SAFETY: the consumer lives. The reference is ours, or null.
        let queue =
            unsafe { bindings::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
        (!queue.is_null()).then_some(Records { queue, consumer })
    }

    /// The consumer.
    pub(super) fn consumer(&self) -> &BaseConsumer<C> {
        &self.consumer
    }

    /// The high watermark of a partition, as the last answer to a fetch had it.
    pub(super) fn known_end(&self, topic: &str, partition: i32) -> Option<i64> {
        known_end(self.consumer.client(), topic, partition)
    }

    /// Waits for a first record and takes up to `most` that are there, each with
    /// its topic and partition.
    pub(super) fn read(
        &self,
        most: usize,
        wait: Duration,
        mut each: impl FnMut(&str, i32, Read<'_>),
    ) {
        let wait = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        let mut messages = vec![ptr::null_mut(); most];
        // A batch is waited for until it is full: so the first by itself, and
        // then what is there.
        let mut found = self.take(&mut messages[..1], wait);
        if found == 1 {
            found += self.take(&mut messages[1..], 0);
        }
        for &message in &messages[..found] {
            // SAFETY: librdkafka gave this message to us. Its topic lives as long
            // as the consumer. It is destroyed once.
            unsafe {
                let told = &*message;
                if !told.rkt.is_null() {
                    let topic = CStr::from_ptr(bindings::rd_kafka_topic_name(told.rkt));
                    let read = match told.err {
                        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Read::Record(Record(told)),
                        RDKafkaRespErr::RD_KAFKA_RESP_ERR__PARTITION_EOF => Read::End(told.offset),
                        other => Read::Failed(other.into()),
                    };
                    each(&topic.to_string_lossy(), told.partition, read);
                }
                bindings::rd_kafka_message_destroy(message);
            }
        }
    }

    fn take(&self, into: &mut [*mut bindings::rd_kafka_message_t], wait: i32) -> usize {
        // SAFETY: the queue is alive, and `into` has room for as many pointers as
        // are asked for.
        let found = unsafe {
            bindings::rd_kafka_consume_batch_queue(self.queue, wait, into.as_mut_ptr(), into.len())
        };
        usize::try_from(found).unwrap_or_default()
    }
}

/// The partition of a key, as Java clients have it (murmur2).
pub fn partition_of(key: &[u8], partitions: i32) -> i32 {
    if partitions < 1 {
        return 0;
    }
    let (key, length) = (key.as_ptr().cast(), key.len());
    let none = ptr::null_mut();
    // SAFETY: the key is read up to its length, and the rest is not looked at by
    // this partitioner.
    unsafe {
        bindings::rd_kafka_msg_partitioner_murmur2(ptr::null(), key, length, partitions, none, none)
    }
}
