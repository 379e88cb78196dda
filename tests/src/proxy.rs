//! A proxy before a Kafka broker that loses chosen requests and answers, answers
//! them itself, or is a bad network.
//!
//! It reads Kafka's frames: a length (4 bytes), and then in a request its API's
//! key (2), the API's version (2) and a correlation id (4), in an answer that id.
//! Nothing else is looked into, so it does not matter which versions are spoken;
//! but for requests that are answered here (`produce`).

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::wire;

/// Kinds of requests, by their key in Kafka's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are Kafka's")]
pub enum Api {
    Produce = 0,
    Fetch = 1,
    Metadata = 3,
    OffsetFetch = 9,
    FindCoordinator = 10,
    InitProducerId = 22,
    AddPartitionsToTxn = 24,
    AddOffsetsToTxn = 25,
    EndTxn = 26,
    TxnOffsetCommit = 28,
    ConsumerGroupHeartbeat = 68,
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It does not arrive: the connection is closed before it is passed on.
    Refused,
    /// It is done, and nobody hears of it: the connection is closed instead of
    /// passing on the answer.
    AnswerLost,
    /// It arrives so much later, and all behind it on its connection.
    Late(Duration),
    /// It does not arrive, and the answer is this error of the broker's. Only
    /// for [`Api::Produce`].
    Answered(i16),
    /// It is done, and the answer is `UNKNOWN_SERVER_ERROR` all the same: so a
    /// coordinator answers when commits meet that it did not think could, and it does
    /// not say whether the transaction was committed. Only for [`Api::EndTxn`].
    DoneUnsaid,
    /// The answer says that there are no brokers, as that of one may that has just
    /// started. Only for [`Api::Metadata`].
    NoBrokers,
}

/// What the way to the broker is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// As if there were no proxy.
    #[default]
    Fine,
    /// Each request and each answer takes so much longer.
    Late(Duration),
    /// So many bytes a second on each connection, each way.
    Slow(u32),
    /// Everything is taken, and nothing arrives.
    Silent,
    /// Connections are closed, and closed again when they are made.
    Cut,
}

/// The running proxy. It ends with the tests.
#[derive(Debug)]
pub struct Proxy {
    address: String,
    way: Arc<Way>,
}

#[derive(Debug, Default)]
struct Way {
    orders: Mutex<Orders>,
    network: Mutex<Network>,
    /// Connections of clients, as far as they may be open.
    open: Mutex<Vec<TcpStream>>,
}

impl Way {
    fn next(&self, key: i16, frame: &[u8]) -> Option<Fault> {
        self.orders.lock().unwrap().next(key, frame)
    }

    /// Lets a frame take its time. False if it does not arrive.
    fn pass(&self, frame: &[u8]) -> bool {
        let network = *self.network.lock().unwrap();
        match network {
            Network::Fine => {}
            Network::Late(time) => thread::sleep(time),
            Network::Slow(bytes) => {
                thread::sleep(Duration::from_secs_f64(
                    frame.len() as f64 / f64::from(bytes),
                ));
            }
            Network::Silent | Network::Cut => return false,
        }
        true
    }
}

#[derive(Debug, Default)]
struct Orders {
    faults: BTreeMap<Api, Order>,
    met: u32,
}

#[derive(Debug)]
struct Order {
    fault: Fault,
    /// How many more requests it happens to.
    left: u32,
    /// It happens to each request of that number: the first, the third, …
    every: u32,
    seen: u32,
    /// It happens to requests that name this topic; to all, if there is none.
    topic: Option<String>,
}

impl Orders {
    /// What happens to the next request of this kind.
    fn next(&mut self, key: i16, frame: &[u8]) -> Option<Fault> {
        let (_, order) = self
            .faults
            .iter_mut()
            .find(|(api, _)| **api as i16 == key)?;
        if let Some(topic) = &order.topic
            && !frame.windows(topic.len()).any(|at| at == topic.as_bytes())
        {
            return None;
        }
        let its_turn = order.seen.is_multiple_of(order.every);
        order.seen += 1;
        if !its_turn || order.left == 0 {
            return None;
        }
        order.left -= 1;
        self.met += 1;
        Some(order.fault)
    }
}

impl Proxy {
    /// Starts one before the broker at an address, which need not listen yet.
    ///
    /// # Panics
    /// If there is no port.
    #[must_use]
    pub fn before(broker: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let way = Arc::new(Way::default());
        thread::spawn({
            let (broker, way) = (broker.to_owned(), way.clone());
            move || {
                for client in listener.incoming().flatten() {
                    if *way.network.lock().unwrap() == Network::Cut {
                        continue;
                    }
                    let (broker, way) = (broker.clone(), way.clone());
                    way.open.lock().unwrap().extend(client.try_clone());
                    // What goes wrong is a closed connection, for both sides.
                    thread::spawn(move || connect(client, &broker, &way));
                }
            }
        });
        Proxy { address, way }
    }

    /// Makes the way to the broker be so from now on.
    ///
    /// # Panics
    /// Never.
    pub fn network(&self, network: Network) {
        *self.way.network.lock().unwrap() = network;
        if network == Network::Cut {
            for client in self.way.open.lock().unwrap().drain(..) {
                let _ = client.shutdown(Shutdown::Both);
            }
        }
    }

    /// Host and port.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// From now on this happens to requests of a kind: to the next one, then to
    /// each `every`th, `times` in all. What was ordered for it before is no more.
    ///
    /// # Panics
    /// Never.
    pub fn order(&self, api: Api, fault: Fault, every: u32, times: u32) {
        self.give(api, fault, every, times, None);
    }

    /// From now on this happens to each request of a kind that names a topic. What
    /// was ordered for it before is no more.
    ///
    /// # Panics
    /// Never.
    pub fn order_for(&self, topic: &str, api: Api, fault: Fault) {
        self.give(api, fault, 1, u32::MAX, Some(topic.to_owned()));
    }

    fn give(&self, api: Api, fault: Fault, every: u32, times: u32, topic: Option<String>) {
        let order = Order {
            fault,
            left: times,
            every: every.max(1),
            seen: 0,
            topic,
        };
        self.way.orders.lock().unwrap().faults.insert(api, order);
    }

    /// How many faults that were ordered for this kind have still to happen.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn left(&self, api: Api) -> u32 {
        let orders = self.way.orders.lock().unwrap();
        orders.faults.get(&api).map_or(0, |order| order.left)
    }

    /// Passes everything on from now on, and says how many faults there were.
    ///
    /// # Panics
    /// Never.
    pub fn clear(&self) -> u32 {
        let mut orders = self.way.orders.lock().unwrap();
        orders.faults.clear();
        orders.met
    }
}

/// Serves a client's connection to its end.
fn connect(client: TcpStream, broker: &str, way: &Way) {
    let Ok(broker) = TcpStream::connect(broker) else {
        return;
    };
    let odd = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = answers(&broker, &client, way, &odd);
            close(&broker, &client);
        });
        let _ = requests(&client, &broker, way, &odd);
        close(&broker, &client);
    });
}

fn close(broker: &TcpStream, client: &TcpStream) {
    let _ = broker.shutdown(Shutdown::Both);
    let _ = client.shutdown(Shutdown::Both);
}

fn requests(
    mut client: &TcpStream,
    mut broker: &TcpStream,
    way: &Way,
    odd: &Mutex<BTreeMap<[u8; 4], Fault>>,
) -> io::Result<()> {
    let _ = client.set_nodelay(true);
    let _ = broker.set_nodelay(true);
    loop {
        let frame = frame(client)?;
        let head = frame.get(4..12).ok_or(io::ErrorKind::InvalidData)?;
        match way.next(i16::from_be_bytes([head[0], head[1]]), &frame) {
            Some(Fault::Refused) => return Ok(()),
            Some(fault @ (Fault::AnswerLost | Fault::NoBrokers | Fault::DoneUnsaid)) => {
                let id = [head[4], head[5], head[6], head[7]];
                odd.lock().unwrap().insert(id, fault);
            }
            Some(Fault::Late(time)) => thread::sleep(time),
            Some(Fault::Answered(code)) => {
                client.write_all(&wire::refusal(&frame[4..], code))?;
                continue;
            }
            None => {}
        }
        if way.pass(&frame) {
            broker.write_all(&frame)?;
        }
    }
}

fn answers(
    broker: &TcpStream,
    mut client: &TcpStream,
    way: &Way,
    odd: &Mutex<BTreeMap<[u8; 4], Fault>>,
) -> io::Result<()> {
    loop {
        let mut frame = frame(broker)?;
        let id = frame.get(4..8).ok_or(io::ErrorKind::InvalidData)?;
        match odd.lock().unwrap().remove(id) {
            Some(Fault::NoBrokers) => frame = wire::without_brokers(&frame),
            Some(Fault::DoneUnsaid) => wire::unsay_end(&mut frame),
            Some(_) => return Ok(()),
            None => {}
        }
        if way.pass(&frame) {
            client.write_all(&frame)?;
        }
    }
}

/// The next frame, with its length before it.
fn frame(mut stream: &TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let size = usize::try_from(i32::from_be_bytes(length))
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    let mut frame = vec![0; 4 + size];
    frame[..4].copy_from_slice(&length);
    stream.read_exact(&mut frame[4..])?;
    Ok(frame)
}
