//! What of Kafka's protocol the proxy has to understand, as
//! <https://kafka.apache.org/protocol> has it; librdkafka speaks these versions with
//! brokers of today.

/// Reads a request.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, left) = self.0.split_at(count);
        self.0 = left;
        taken
    }

    fn number(&mut self) -> i16 {
        let bytes = self.take(2);
        i16::from_be_bytes([bytes[0], bytes[1]])
    }

    fn varint(&mut self) -> usize {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = self.take(1)[0];
            value |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return value;
            }
        }
    }

    /// What has its length before it, one more than it is; empty where it is null.
    fn compact(&mut self) -> &'a [u8] {
        let length = self.varint();
        self.take(length.saturating_sub(1))
    }

    fn tags(&mut self) {
        for _ in 0..self.varint() {
            let _tag = self.varint();
            let length = self.varint();
            self.take(length);
        }
    }
}

/// A broker's answer to a `Produce` request (versions 9 to 12) that it does not do,
/// made from the request: each partition that is in it gets the same error. With its
/// length before it, to a request without its own.
///
/// # Panics
/// If it is no request that is known here.
pub(crate) fn refusal(request: &[u8], code: i16) -> Vec<u8> {
    let mut request = Reader(request);
    let (_key, version) = (request.number(), request.number());
    assert!((9..=12).contains(&version), "Produce v{version}");
    let mut answer = request.take(4).to_vec();
    answer.push(0);
    let client = request.number();
    request.take(usize::try_from(client).unwrap_or(0));
    request.tags();
    let _transactional_id = request.compact();
    let _acks_and_timeout = request.take(6);
    let topics = request.varint();
    varint(&mut answer, topics);
    for _ in 1..topics {
        let name = request.compact();
        varint(&mut answer, name.len() + 1);
        answer.extend(name);
        let partitions = request.varint();
        varint(&mut answer, partitions);
        for _ in 1..partitions {
            answer.extend(request.take(4));
            let _records = request.compact();
            request.tags();
            answer.extend(code.to_be_bytes());
            // Base offset, time of append, first offset: none.
            answer.extend([0xff; 24]);
            // No errors of single records, no message, no tags.
            answer.extend([1, 0, 0]);
        }
        request.tags();
        answer.push(0);
    }
    // Not throttled, no tags.
    answer.extend([0; 5]);
    let length = u32::try_from(answer.len()).unwrap().to_be_bytes();
    [&length[..], &answer].concat()
}

/// Makes an answer to an `EndTxn` request (versions 0 and 1) say that it is not known
/// what went wrong; with its length before it.
///
/// # Panics
/// If it is no such answer.
pub(crate) fn unsay_end(answer: &mut [u8]) {
    const UNKNOWN_SERVER_ERROR: [u8; 2] = (-1_i16).to_be_bytes();
    // Behind the length: correlation id, how long it was throttled, the error.
    assert_eq!(answer.len(), 4 + 4 + 4 + 2, "{answer:?}");
    answer[12..].copy_from_slice(&UNKNOWN_SERVER_ERROR);
}

fn varint(to: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        to.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// An answer to a `Metadata` request (versions 12 and 13) as a broker gives it that
/// has just started: there are no brokers, and no partition has a leader. Both with
/// their length before them.
///
/// # Panics
/// If it is no such answer.
pub(crate) fn without_brokers(frame: &[u8]) -> Vec<u8> {
    const LEADER_NOT_AVAILABLE: [u8; 2] = 5_i16.to_be_bytes();
    let mut answer = Reader(&frame[4..]);
    let mut new = answer.take(4).to_vec();
    answer.tags();
    new.push(0);
    // How long it was throttled.
    new.extend(answer.take(4));
    for _ in 1..answer.varint() {
        // Its number; host; port; rack.
        answer.take(4);
        answer.compact();
        answer.take(4);
        answer.compact();
        answer.tags();
    }
    new.push(1);
    let rest = answer.0;
    // The cluster's id; the controller.
    answer.compact();
    answer.take(4);
    let mut at = rest.len() - answer.0.len();
    new.extend(&rest[..at - 4]);
    new.extend((-1_i32).to_be_bytes());
    let mut partitions = Vec::new();
    for _ in 1..answer.varint() {
        // Error; name; id; whether it is internal.
        answer.take(2);
        answer.compact();
        answer.take(17);
        for _ in 1..answer.varint() {
            partitions.push(rest.len() - answer.0.len());
            // Error; number; leader; its epoch; replicas, in sync, offline.
            answer.take(14);
            for _ in 0..3 {
                let count = answer.varint().saturating_sub(1);
                answer.take(4 * count);
            }
            answer.tags();
        }
        answer.take(4);
        answer.tags();
    }
    for partition in partitions {
        new.extend(&rest[at..partition]);
        new.extend(LEADER_NOT_AVAILABLE);
        new.extend(&rest[partition + 2..partition + 6]);
        new.extend((-1_i32).to_be_bytes());
        at = partition + 10;
    }
    new.extend(&rest[at..]);
    let length = u32::try_from(new.len()).unwrap();
    [&length.to_be_bytes()[..], &new].concat()
}
