//! What is kept of a service's deployments: what runs, on what share of it, and
//! what ran before. Decides what a deploy, a promotion or a way back makes of it;
//! does no I/O.
//!
//! A record is the whole of what hosts must know, and is replaced as a whole
//! (PROTOCOL, Deployments). Its number rises with each change; it is a time where
//! clocks are right, so that it rises even if a record was lost.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tidemill_cli::api::{Action, Canary, Entry, Sticky};

/// How many deployments are remembered, and with them the revisions that one can
/// go back to.
const REMEMBERED: usize = 20;

/// What is deployed of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Rises with each change.
    pub number: u64,
    /// Who made this change: known to nobody else, so that a host whose commit
    /// timed out can tell whether it is there.
    pub change: String,
    /// The digest of the revision that runs.
    pub live: String,
    /// When that began, in milliseconds since the Unix epoch.
    pub since: u64,
    /// The revision that gets a share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// Whether the revision that runs is still watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
    /// Whether nothing is consumed.
    #[serde(default)]
    pub paused: bool,
    /// What ran, the latest last.
    pub history: Vec<Entry>,
    /// Where the content of each revision is that may run again.
    pub contents: BTreeMap<String, Content>,
}

/// A revision on trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// Until when, in milliseconds since the Unix epoch.
    pub until: u64,
    /// The digest of the revision to go back to.
    pub before: String,
}

/// Where a component's bytes are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// How many bytes.
    pub size: u64,
    /// The offsets of its chunks in `tidemill.components`; empty where there is no
    /// such topic.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chunks: Vec<i64>,
}

/// Why a change cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nothing of that name is deployed.
    #[error("no service {0:?} is deployed")]
    NoService(String),
    /// No canary to promote.
    #[error("{0} has no canary: `tidemill deploy --weight` makes one")]
    NoCanary(String),
    /// A canary needs something to be beside.
    #[error("a canary needs a revision beside it, and {0} is not deployed yet: deploy it first")]
    NothingBeside(String),
    /// There is nothing before.
    #[error(
        "{0} has no revision to go back to: none that ran before is left that was not gone back \
         from. `tidemill history {0}` lists them, and any of them can be named"
    )]
    NothingBefore(String),
    /// An unknown revision, or several.
    #[error(
        "{name} has {found} revisions {wanted:?} in its history: `tidemill history {name}` lists them"
    )]
    Unknown {
        /// The service.
        name: String,
        /// What was asked for.
        wanted: String,
        /// How many there are: none or several.
        found: &'static str,
    },
    /// It runs already.
    #[error("revision {1} of {0} runs already")]
    Runs(String, String),
    /// Somebody else was faster.
    #[error("{0} was deployed anew meanwhile")]
    Superseded(String),
}

/// When and by whom a change is made.
#[derive(Clone, Debug)]
pub struct Stamp {
    /// Milliseconds since the Unix epoch.
    pub now: u64,
    /// The id of the host that makes it.
    pub host: String,
    /// Known to nobody else.
    pub change: String,
}

/// What becomes of a service's record.
pub type Change = Result<Deployment, Refused>;

/// Deploys a revision.
pub fn deploy(
    before: Option<&Deployment>,
    digest: &str,
    content: Content,
    trial: u64,
    stamp: &Stamp,
) -> Deployment {
    let mut next = match before {
        Some(before) => before.clone(),
        None => Deployment {
            number: 0,
            change: String::new(),
            live: digest.to_owned(),
            since: 0,
            canary: None,
            trial: None,
            paused: false,
            history: Vec::new(),
            contents: BTreeMap::new(),
        },
    };
    next.contents.insert(digest.to_owned(), content);
    next.canary = None;
    let old = before.map(|before| before.live.clone());
    next.run(digest, Action::Deploy, None, stamp);
    next.try_out(old.filter(|old| *old != digest), trial, stamp);
    next.tidied()
}

/// Gives a revision a share of the requests, and partitions.
pub fn canary(
    name: &str,
    before: Option<&Deployment>,
    canary: Canary,
    content: Content,
    stamp: &Stamp,
) -> Change {
    let before = before.ok_or_else(|| Refused::NothingBeside(name.to_owned()))?;
    if before.live == canary.revision {
        return Err(Refused::Runs(name.to_owned(), short(&canary.revision)));
    }
    let mut next = before.clone();
    next.contents.insert(canary.revision.clone(), content);
    next.stamp(&canary.revision, Action::Canary, None, stamp);
    next.canary = Some(canary);
    Ok(next.tidied())
}

/// Makes the canary what runs.
pub fn promote(name: &str, before: Option<&Deployment>, trial: u64, stamp: &Stamp) -> Change {
    let before = before.ok_or_else(|| Refused::NoService(name.to_owned()))?;
    let canary = before.canary.clone();
    let canary = canary.ok_or_else(|| Refused::NoCanary(name.to_owned()))?;
    let mut next = before.clone();
    next.canary = None;
    next.run(&canary.revision, Action::Promote, None, stamp);
    next.try_out(Some(before.live.clone()), trial, stamp);
    Ok(next.tidied())
}

/// Goes back: to a revision that is named by the beginning of its digest; else to
/// the one beside the canary; else to the latest that ran before and was not gone
/// back from.
pub fn rollback(
    name: &str,
    before: Option<&Deployment>,
    to: Option<&str>,
    stamp: &Stamp,
) -> Change {
    let before = before.ok_or_else(|| Refused::NoService(name.to_owned()))?;
    let mut next = before.clone();
    if let (None, Some(canary)) = (to, next.canary.take()) {
        next.stamp(&canary.revision, Action::Withdraw, None, stamp);
        return Ok(next.tidied());
    }
    let target = match to {
        Some(wanted) => before.named(name, wanted)?,
        None => before
            .before()
            .ok_or_else(|| Refused::NothingBefore(name.to_owned()))?,
    };
    if target == before.live {
        return Err(Refused::Runs(name.to_owned(), short(&target)));
    }
    next.canary = None;
    next.trial = None;
    next.run(&target, Action::Rollback, None, stamp);
    Ok(next.tidied())
}

/// Goes back by itself: `failed`, which is on trial or a canary, has failed too
/// often. Only if the record is still the one that was judged.
pub fn fall_back(
    name: &str,
    before: Option<&Deployment>,
    failed: &str,
    number: u64,
    why: String,
    stamp: &Stamp,
) -> Change {
    let superseded = || Refused::Superseded(name.to_owned());
    let before = before.ok_or_else(superseded)?;
    if before.number != number {
        return Err(superseded());
    }
    let mut next = before.clone();
    let canary = next.canary.take();
    if canary.is_some_and(|canary| canary.revision == failed) {
        next.stamp(failed, Action::Withdraw, Some(why), stamp);
        return Ok(next.tidied());
    }
    let trial = next.trial.take().ok_or_else(superseded)?;
    next.run(&trial.before, Action::Automatic, Some(why), stamp);
    Ok(next.tidied())
}

/// Has the service consume nothing, or again.
pub fn pause(name: &str, before: Option<&Deployment>, paused: bool, stamp: &Stamp) -> Change {
    let mut next = before
        .ok_or_else(|| Refused::NoService(name.to_owned()))?
        .clone();
    next.paused = paused;
    next.number = stamp.now.max(next.number + 1);
    next.change.clone_from(&stamp.change);
    Ok(next)
}

impl Deployment {
    /// All revisions that hosts have to hold ready.
    pub fn running(&self) -> impl Iterator<Item = &str> {
        let canary = self.canary.iter().map(|canary| canary.revision.as_str());
        let before = self.trial.iter().map(|trial| trial.before.as_str());
        std::iter::once(self.live.as_str())
            .chain(canary)
            .chain(before)
    }

    /// The revisions of an older record whose content nobody needs any more.
    pub fn dropped<'a>(&self, older: &'a Deployment) -> Vec<(&'a str, &'a Content)> {
        let contents = older.contents.iter();
        let dropped = contents.filter(|(digest, _)| !self.contents.contains_key(*digest));
        dropped
            .map(|(digest, content)| (digest.as_str(), content))
            .collect()
    }

    /// Whether a revision ran and does not any more; the one before a trial is held
    /// ready, and has been replaced all the same.
    pub fn was_replaced(&self, digest: &str) -> bool {
        let canary = self.canary.as_ref();
        let runs = self.live == digest || canary.is_some_and(|canary| canary.revision == digest);
        self.contents.contains_key(digest) && !runs
    }

    /// The number and the change are new, and the history has one more.
    fn stamp(&mut self, revision: &str, action: Action, why: Option<String>, stamp: &Stamp) {
        self.number = stamp.now.max(self.number + 1);
        self.change.clone_from(&stamp.change);
        self.history.push(Entry {
            number: self.number,
            at: stamp.now,
            action,
            revision: revision.to_owned(),
            host: stamp.host.clone(),
            why,
        });
    }

    fn run(&mut self, digest: &str, action: Action, why: Option<String>, stamp: &Stamp) {
        self.stamp(digest, action, why, stamp);
        digest.clone_into(&mut self.live);
        self.since = stamp.now;
    }

    fn try_out(&mut self, before: Option<String>, trial: u64, stamp: &Stamp) {
        self.trial = before.filter(|_| trial > 0).map(|before| Trial {
            until: stamp.now + trial,
            before,
        });
    }

    /// The latest revision that ran before the one that runs, and was not gone back
    /// from since.
    pub fn before(&self) -> Option<String> {
        let mut left = BTreeSet::new();
        // What ran for all, in order.
        let mut order: Vec<&str> = Vec::new();
        for entry in &self.history {
            match entry.action {
                Action::Canary | Action::Withdraw => continue,
                Action::Rollback | Action::Automatic => left.extend(order.last().copied()),
                // Deployed again: somebody thinks that it is well now.
                Action::Deploy | Action::Promote => {
                    left.remove(entry.revision.as_str());
                }
            }
            order.push(&entry.revision);
        }
        left.insert(self.live.as_str());
        let mut latest = order.into_iter().rev();
        latest
            .find(|digest| !left.contains(digest) && self.contents.contains_key(*digest))
            .map(str::to_owned)
    }

    fn named(&self, name: &str, wanted: &str) -> Result<String, Refused> {
        let unknown = |found| Refused::Unknown {
            name: name.to_owned(),
            wanted: wanted.to_owned(),
            found,
        };
        let wanted = wanted.to_ascii_lowercase();
        let mut found = self
            .contents
            .keys()
            .filter(|digest| digest.starts_with(&wanted));
        match (found.next(), found.next()) {
            (Some(digest), None) if !wanted.is_empty() => Ok(digest.clone()),
            (Some(_), _) => Err(unknown("several")),
            (None, _) => Err(unknown("no")),
        }
    }

    /// Forgets what is too long ago, and content that no revision in the history
    /// needs.
    fn tidied(mut self) -> Deployment {
        let surplus = self.history.len().saturating_sub(REMEMBERED);
        self.history.drain(..surplus);
        let mut needed: BTreeSet<String> = self.running().map(str::to_owned).collect();
        needed.extend(self.history.iter().map(|entry| entry.revision.clone()));
        self.contents.retain(|digest, _| needed.contains(digest));
        self
    }
}

fn short(digest: &str) -> String {
    digest.get(..12).unwrap_or(digest).to_owned()
}

/// Which of two revisions a request goes to, by a number between 0 and 1 that is
/// its own.
pub fn takes_canary(canary: &Canary, place: f64) -> bool {
    place * 100.0 < canary.weight
}

/// What a header field or a cookie makes stick: a place between 0 and 1, the same
/// for the same value on every host.
pub fn place(value: &[u8]) -> f64 {
    // FNV-1a, and a final mix, since its high bits are poor for short values.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in value {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^= hash >> 32;
    // 53 bits are what a float has.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    let place = (hash >> 11) as f64 / (1_u64 << 53) as f64;
    place
}

/// The value that decides for a request, if it has any.
pub fn sticks<'h>(sticky: &Sticky, headers: &'h http::HeaderMap) -> Option<&'h [u8]> {
    match sticky {
        Sticky::Header(name) => headers.get(name).map(http::HeaderValue::as_bytes),
        Sticky::Cookie(name) => {
            let cookies = headers.get_all(http::header::COOKIE).iter();
            let mut pairs = cookies
                .filter_map(|value| value.to_str().ok())
                .flat_map(|value| value.split(';'))
                .filter_map(|pair| pair.trim().split_once('='));
            let value = pairs.find(|(found, _)| *found == name);
            value.map(|(_, value)| value.as_bytes())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(now: u64) -> Stamp {
        Stamp {
            now,
            host: "h".to_owned(),
            change: format!("c{now}"),
        }
    }

    fn deployed(digests: &[&str]) -> Deployment {
        let mut record = None;
        for (at, digest) in digests.iter().enumerate() {
            let at = 10 * (at as u64 + 1);
            record = Some(deploy(
                record.as_ref(),
                digest,
                Content::default(),
                5,
                &stamp(at),
            ));
        }
        record.unwrap()
    }

    fn share(revision: &str, weight: f64) -> Canary {
        Canary {
            revision: revision.to_owned(),
            weight,
            sticky: None,
            partitions: Vec::new(),
        }
    }

    #[test]
    fn numbers_rise_even_if_clocks_do_not() {
        let first = deployed(&["a"]);
        let second = deploy(Some(&first), "b", Content::default(), 0, &stamp(3));
        assert_eq!((first.number, second.number), (10, 11));
        assert_eq!(
            pause("s", Some(&second), true, &stamp(1)).unwrap().number,
            12
        );
        assert_eq!(deployed(&["a"]).number, 10);
    }

    #[test]
    fn a_revision_that_replaces_another_is_on_trial_and_the_first_is_not() {
        assert_eq!(deployed(&["a"]).trial, None);
        assert_eq!(deployed(&["a", "a"]).trial, None);
        let second = deployed(&["a", "b"]);
        let trial = second.trial.clone().unwrap();
        assert_eq!((trial.until, trial.before.as_str()), (25, "a"));
        let untried = deploy(Some(&second), "c", Content::default(), 0, &stamp(30));
        assert_eq!(untried.trial, None);
    }

    #[test]
    fn going_back_never_leads_to_what_was_gone_back_from() {
        let record = deployed(&["a", "b", "c"]);
        let back = rollback("s", Some(&record), None, &stamp(40)).unwrap();
        assert_eq!(back.live, "b");
        let back = rollback("s", Some(&back), None, &stamp(50)).unwrap();
        assert_eq!(back.live, "a");
        let none = rollback("s", Some(&back), None, &stamp(60));
        assert_eq!(none, Err(Refused::NothingBefore("s".to_owned())));
        // Unless it is named, or deployed again.
        let named = rollback("s", Some(&back), Some("C"), &stamp(60)).unwrap();
        assert_eq!(named.live, "c");
        let again = deploy(Some(&back), "c", Content::default(), 0, &stamp(60));
        let back = rollback("s", Some(&again), None, &stamp(70)).unwrap();
        assert_eq!(back.live, "a");
    }

    #[test]
    fn a_revision_is_named_by_the_beginning_of_its_digest() {
        let record = deployed(&["abc1", "abd2", "c3"]);
        let to = |wanted| rollback("s", Some(&record), Some(wanted), &stamp(40));
        assert_eq!(to("abc").unwrap().live, "abc1");
        assert!(matches!(
            to("ab"),
            Err(Refused::Unknown {
                found: "several",
                ..
            })
        ));
        assert!(matches!(to("x"), Err(Refused::Unknown { found: "no", .. })));
        assert!(matches!(to(""), Err(Refused::Unknown { .. })));
        assert!(matches!(to("c3"), Err(Refused::Runs(..))));
    }

    #[test]
    fn a_canary_is_promoted_withdrawn_or_fails_and_the_other_runs_on() {
        let record = deployed(&["a"]);
        let nothing = canary("s", None, share("b", 5.0), Content::default(), &stamp(20));
        assert!(matches!(nothing, Err(Refused::NothingBeside(_))));
        let record = canary(
            "s",
            Some(&record),
            share("b", 5.0),
            Content::default(),
            &stamp(20),
        )
        .unwrap();
        assert_eq!((record.live.as_str(), record.running().count()), ("a", 2));
        let promoted = promote("s", Some(&record), 5, &stamp(30)).unwrap();
        assert_eq!((promoted.live.as_str(), &promoted.canary), ("b", &None));
        assert_eq!(promoted.trial.as_ref().unwrap().before, "a");
        let withdrawn = rollback("s", Some(&record), None, &stamp(30)).unwrap();
        assert_eq!((withdrawn.live.as_str(), &withdrawn.canary), ("a", &None));
        let failed = fall_back("s", Some(&record), "b", 20, "why".to_owned(), &stamp(30));
        let failed = failed.unwrap();
        assert_eq!((failed.live.as_str(), &failed.canary), ("a", &None));
        // It never ran for all, so there is nothing to go back to.
        let back = rollback("s", Some(&failed), None, &stamp(40));
        assert!(matches!(back, Err(Refused::NothingBefore(_))));
        let none = promote("s", Some(&failed), 5, &stamp(40));
        assert!(matches!(none, Err(Refused::NoCanary(_))));
    }

    #[test]
    fn a_trial_that_fails_leads_back_only_while_nothing_else_was_deployed() {
        let record = deployed(&["a", "b"]);
        let judged = record.number;
        let back = fall_back(
            "s",
            Some(&record),
            "b",
            judged,
            "why".to_owned(),
            &stamp(40),
        );
        let back = back.unwrap();
        assert_eq!((back.live.as_str(), &back.trial), ("a", &None));
        let last = back.history.last().unwrap();
        assert_eq!(
            (last.action, last.why.as_deref()),
            (Action::Automatic, Some("why"))
        );
        let third = deploy(Some(&record), "c", Content::default(), 5, &stamp(30));
        let late = fall_back("s", Some(&third), "b", judged, "why".to_owned(), &stamp(40));
        assert!(matches!(late, Err(Refused::Superseded(_))));
    }

    #[test]
    fn content_that_no_revision_in_the_history_needs_is_dropped() {
        let digests: Vec<String> = (0..REMEMBERED + 5).map(|i| format!("d{i:02}")).collect();
        let digests: Vec<&str> = digests.iter().map(String::as_str).collect();
        let record = deployed(&digests);
        assert_eq!(record.history.len(), REMEMBERED);
        assert_eq!(record.contents.len(), REMEMBERED);
        let next = deploy(Some(&record), "new", Content::default(), 5, &stamp(1000));
        let dropped: Vec<&str> = next.dropped(&record).into_iter().map(|(d, _)| d).collect();
        assert_eq!(dropped, ["d05"]);
        assert!(next.was_replaced("d10") && !next.was_replaced("new"));
        // What one goes back to has been replaced, and is held ready.
        assert!(next.was_replaced("d24") && next.running().any(|running| running == "d24"));
    }

    #[test]
    fn what_runs_was_not_replaced_and_what_is_on_trial_or_failed_it_is_no_exception() {
        let record = deployed(&["a", "b"]);
        assert!(record.was_replaced("a") && !record.was_replaced("b"));
        let content = Content::default();
        let beside = canary("s", Some(&record), share("c", 5.0), content, &stamp(30)).unwrap();
        assert!(!beside.was_replaced("b") && !beside.was_replaced("c"));
        let number = record.number;
        let back = fall_back("s", Some(&record), "b", number, String::new(), &stamp(30));
        let back = back.unwrap();
        assert!(back.was_replaced("b") && !back.was_replaced("a"));
    }

    #[test]
    fn a_share_of_the_requests_goes_to_the_canary_and_the_same_value_always_does() {
        let five = share("b", 5.0);
        let taken =
            (0..10_000).filter(|i| takes_canary(&five, place(format!("user-{i}").as_bytes())));
        let taken = taken.count();
        assert!((400..600).contains(&taken), "{taken}");
        assert!(!takes_canary(&share("b", 0.0), 0.0));
        assert!(takes_canary(&share("b", 100.0), 0.999_999));
        let mut headers = http::HeaderMap::new();
        headers.append("cookie", "a=1; session=xyz".parse().unwrap());
        headers.append("x-user", "u1".parse().unwrap());
        let cookie = Sticky::Cookie("session".to_owned());
        assert_eq!(sticks(&cookie, &headers), Some(&b"xyz"[..]));
        assert_eq!(sticks(&Sticky::Cookie("b".to_owned()), &headers), None);
        assert_eq!(
            sticks(&Sticky::Header("x-user".to_owned()), &headers),
            Some(&b"u1"[..])
        );
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let mut record = deployed(&["a", "b"]);
        record.canary = Some(Canary {
            sticky: Some(Sticky::Cookie("session".to_owned())),
            partitions: vec![0, 3],
            ..share("c", 2.5)
        });
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Deployment>(&text).unwrap(), record);
    }
}
