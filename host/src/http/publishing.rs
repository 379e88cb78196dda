//! What a request's handler published: to Kafka, before the answer.
//!
//! One event goes through the host's idempotent producer. Several events of one
//! request go into a transaction, all or none, which the requests of the moment
//! share.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::effects::Message;
use crate::kafka::{Batch, Cluster, Outcome, Placed, PublishError, Publisher, Transactor};

/// A transaction has at most this many messages, but for those of one request.
const MOST: usize = 10_000;
/// How long it is tried to publish what a request asked for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much longer its client waits to hear what became of it once it was begun.
const ANSWER: Duration = Duration::from_secs(5);
/// How long to wait before trying again.
const PAUSE: Duration = Duration::from_millis(20);

/// Said of a request that was not begun in time, or only in transactions that
/// were aborted.
const TOO_LATE: &str = "Kafka did not take the transaction in time";

/// Why a request's events are not all there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPublished {
    /// The broker will never take them; nothing was published.
    #[error("{0}")]
    Refused(String),
    /// Not now; nothing was published.
    #[error("{0}")]
    Unavailable(String),
    /// They may be there, or some of them.
    #[error("{0}")]
    Unknown(String),
}

/// A request that waits for its transaction.
struct Waiting {
    messages: Vec<Message>,
    until: Instant,
    claim: Claim,
    /// Whether this side has the claim.
    begun: bool,
    answer: oneshot::Sender<Result<Vec<Placed>, NotPublished>>,
}

/// A request is either begun or given up: whoever claims it first.
#[derive(Clone, Default)]
struct Claim(Arc<AtomicBool>);

impl Claim {
    fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// Publishes for requests.
pub struct Publishing {
    cluster: Arc<Cluster>,
    publisher: Arc<Publisher>,
    /// None where there are no transactions: on the embedded broker.
    waiting: Option<mpsc::UnboundedSender<Waiting>>,
}

impl Publishing {
    /// Needs a runtime: transactions are made by a task of their own. `id` is
    /// that of their producer.
    pub fn start(cluster: &Arc<Cluster>, publisher: Publisher, id: String) -> Publishing {
        let waiting = (!cluster.is_embedded()).then(|| {
            let (waiting, requests) = mpsc::unbounded_channel();
            let transactions = Transactions {
                cluster: cluster.clone(),
                id,
                transactor: None,
            };
            tokio::spawn(transactions.run(requests));
            waiting
        });
        Publishing {
            cluster: cluster.clone(),
            publisher: Arc::new(publisher),
            waiting,
        }
    }

    /// What publishes single events.
    pub fn publisher(&self) -> &Arc<Publisher> {
        &self.publisher
    }

    /// Publishes a request's messages, and says where they are. While it is known
    /// that the cluster is away, nothing is sent and nobody waits.
    pub async fn publish(&self, messages: Vec<Message>) -> Result<Vec<Placed>, NotPublished> {
        if !self.cluster.is_up() {
            return Err(NotPublished::Unavailable(
                "Kafka does not answer".to_owned(),
            ));
        }
        match &self.waiting {
            Some(waiting) if messages.len() > 1 => transacted(waiting, messages).await,
            _ => {
                let published = self.publisher.publish(messages.iter()).await;
                match failure(&published.failed, messages.len()) {
                    Some(failure) => Err(failure),
                    None => Ok(published.placed),
                }
            }
        }
    }
}

async fn transacted(
    waiting: &mpsc::UnboundedSender<Waiting>,
    messages: Vec<Message>,
) -> Result<Vec<Placed>, NotPublished> {
    let (answer, mut answered) = oneshot::channel();
    let claim = Claim::default();
    let until = Instant::now() + PATIENCE;
    let request = Waiting {
        messages,
        until,
        claim: claim.clone(),
        begun: false,
        answer,
    };
    let ending = || NotPublished::Unavailable("the host is ending".to_owned());
    if waiting.send(request).is_err() {
        return Err(ending());
    }
    let mut said = tokio::time::timeout_at(until, &mut answered).await;
    if said.is_err() {
        if claim.take() {
            return Err(NotPublished::Unavailable(TOO_LATE.to_owned()));
        }
        said = tokio::time::timeout(ANSWER, answered).await;
    }
    match said {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(ending()),
        Err(_) => Err(NotPublished::Unknown(
            "Kafka did not say in time what became of the transaction".to_owned(),
        )),
    }
}

/// What it means that some of the messages of one request failed, each by itself.
fn failure(failed: &[(usize, PublishError)], all: usize) -> Option<NotPublished> {
    let (_, first) = failed.first()?;
    let cause = first.to_string();
    let unknown = failed
        .iter()
        .any(|(_, error)| matches!(error, PublishError::Unknown { .. }));
    let unsent = failed
        .iter()
        .any(|(_, error)| matches!(error, PublishError::NotSent { .. }));
    Some(if unknown || failed.len() < all {
        NotPublished::Unknown(cause)
    } else if unsent {
        NotPublished::Unavailable(cause)
    } else {
        NotPublished::Refused(cause)
    })
}

struct Transactions {
    cluster: Arc<Cluster>,
    id: String,
    transactor: Option<Transactor>,
}

impl Transactions {
    async fn run(mut self, mut requests: mpsc::UnboundedReceiver<Waiting>) {
        // What a predecessor left open holds up readers: it is ended at once.
        if let Err(why) = self.transactor().await {
            tracing::debug!("transactions of requests cannot begin yet: {why}");
        }
        while let Some(first) = requests.recv().await {
            let mut count = first.messages.len();
            let mut group = VecDeque::from([first]);
            while count < MOST {
                let Ok(next) = requests.try_recv() else { break };
                count += next.messages.len();
                group.push_back(next);
            }
            self.commit(group).await;
        }
    }

    /// Commits what requests published, in as many transactions as it takes.
    async fn commit(&mut self, mut waiting: VecDeque<Waiting>) {
        let mut most = usize::MAX;
        while !waiting.is_empty() {
            // Who has stopped waiting must not be surprised later.
            waiting.retain(|request| !request.answer.is_closed());
            waiting = in_time(waiting);
            let mut part: Vec<Waiting> = waiting.drain(..most.min(waiting.len())).collect();
            if part.is_empty() {
                continue;
            }
            let transactor = match self.transactor().await {
                Ok(transactor) => transactor,
                Err(cause) => {
                    for request in part {
                        request.answer(Err(NotPublished::Unavailable(cause.clone())));
                    }
                    continue;
                }
            };
            part.retain_mut(Waiting::begin);
            if part.is_empty() {
                continue;
            }
            let messages = part.iter().flat_map(|request| request.messages.clone());
            let batch = Batch {
                messages: messages.collect(),
                ..Batch::default()
            };
            match transactor.commit(batch).await {
                Outcome::Committed(placed) => {
                    let mut placed = placed.into_iter();
                    for request in part {
                        let theirs = placed.by_ref().take(request.messages.len()).collect();
                        request.answer(Ok(theirs));
                    }
                    most = most.saturating_mul(2);
                    continue;
                }
                Outcome::Aborted(aborted) => {
                    if aborted.ended {
                        self.transactor = None;
                    }
                    let cause = aborted.cause.unwrap_or_default();
                    if !aborted.refused.is_empty() {
                        part = refuse(part, &aborted.refused);
                    } else if aborted.lasting && part.len() == 1 {
                        for request in part.drain(..) {
                            request.answer(Err(NotPublished::Refused(cause.clone())));
                        }
                    } else if aborted.lasting {
                        most = part.len() / 2;
                    } else {
                        tracing::debug!("a transaction of requests was aborted: {cause}");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
                Outcome::Ended { cause, in_doubt } => {
                    tracing::warn!(
                        event = "request.transactions-anew",
                        "transactions of requests begin anew: {cause}"
                    );
                    self.transactor = None;
                    if in_doubt {
                        for request in part.drain(..) {
                            request.answer(Err(NotPublished::Unknown(cause.clone())));
                        }
                    }
                }
            }
            for request in part.into_iter().rev() {
                waiting.push_front(request);
            }
        }
    }

    async fn transactor(&mut self) -> Result<&Transactor, String> {
        if self.transactor.is_none() {
            let opened = Transactor::open(&self.cluster, &self.id);
            let opened = tokio::time::timeout(PATIENCE, opened).await;
            let opened = opened.map_err(|_| "Kafka does not answer".to_owned())?;
            self.transactor = Some(opened.map_err(|error| error.to_string())?);
        }
        let missing = || "the producer is missing".to_owned();
        self.transactor.as_ref().ok_or_else(missing)
    }
}

impl Waiting {
    /// From here on it may be published. False if its client has given it up.
    fn begin(&mut self) -> bool {
        let begun = std::mem::replace(&mut self.begun, true);
        begun || self.claim.take()
    }

    fn answer(self, answer: Result<Vec<Placed>, NotPublished>) {
        // Its client may be gone.
        let _ = self.answer.send(answer);
    }
}

/// Gives up requests whose time is over. Nothing of them was published.
fn in_time(waiting: VecDeque<Waiting>) -> VecDeque<Waiting> {
    let now = Instant::now();
    let mut left = VecDeque::with_capacity(waiting.len());
    for request in waiting {
        if request.until > now {
            left.push_back(request);
        } else {
            request.answer(Err(NotPublished::Unavailable(TOO_LATE.to_owned())));
        }
    }
    left
}

/// Answers requests of which a message was refused, by its place among all.
fn refuse(part: Vec<Waiting>, refused: &[(usize, PublishError)]) -> Vec<Waiting> {
    let mut left = Vec::with_capacity(part.len());
    let mut first = 0;
    for request in part {
        let theirs = first..first + request.messages.len();
        first = theirs.end;
        match refused.iter().find(|(place, _)| theirs.contains(place)) {
            Some((_, error)) => request.answer(Err(NotPublished::Refused(error.to_string()))),
            None => left.push(request),
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(unknown: bool) -> PublishError {
        let (topic, cause) = ("t".to_owned(), "c".to_owned());
        match unknown {
            true => PublishError::Unknown { topic, cause },
            false => PublishError::Refused { topic, cause },
        }
    }

    fn waiting(
        messages: usize,
    ) -> (
        Waiting,
        oneshot::Receiver<Result<Vec<Placed>, NotPublished>>,
    ) {
        let message = Message {
            topic: "t".into(),
            partition: None,
            key: None,
            value: None,
            headers: Vec::new(),
        };
        let (answer, answered) = oneshot::channel();
        let request = Waiting {
            messages: vec![message; messages],
            until: Instant::now() + PATIENCE,
            claim: Claim::default(),
            begun: false,
            answer,
        };
        (request, answered)
    }

    #[test]
    fn what_was_taken_in_part_is_never_called_not_published() {
        assert_eq!(failure(&[], 1), None);
        let refused = [(0, error(false))];
        assert!(matches!(
            failure(&refused, 1),
            Some(NotPublished::Refused(_))
        ));
        assert!(matches!(
            failure(&refused, 2),
            Some(NotPublished::Unknown(_))
        ));
        let unknown = [(0, error(true))];
        assert!(matches!(
            failure(&unknown, 1),
            Some(NotPublished::Unknown(_))
        ));
    }

    #[tokio::test]
    async fn a_refused_message_fails_its_request_and_no_other() {
        let (first, mut of_first) = waiting(2);
        let (second, mut of_second) = waiting(3);
        let (third, mut of_third) = waiting(1);
        let left = refuse(vec![first, second, third], &[(4, error(false))]);
        assert_eq!(left.len(), 2);
        assert!(matches!(
            of_second.try_recv(),
            Ok(Err(NotPublished::Refused(_)))
        ));
        assert!(of_first.try_recv().is_err());
        assert!(of_third.try_recv().is_err());
    }
}
