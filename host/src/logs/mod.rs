//! Log lines: what one is, and the latest of each service, for `tidemill logs`.
//!
//! Everything is logged through tracing. A line with a field `service` is kept
//! here as well, in memory and bounded. Nothing here waits for a reader.

mod invocations;
mod line;
mod quota;
mod ring;
mod writer;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;
use tidemill_cli::api::Level;
use tokio::sync::watch;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

pub(crate) use invocations::{Invocations, Watch};
pub(crate) use line::{Line, now};
pub(crate) use quota::{Pass, Quota, RATE};
pub(crate) use ring::Text;
use ring::{Part, Ring};
pub(crate) use writer::{Json, Pretty};

/// Lines of one service are kept up to this many bytes …
const ONE: usize = 512 << 10;
/// … and those of all services up to this many.
const ALL: usize = 16 << 20;
/// Services whose lines are kept. Names come from those who deploy.
const SERVICES: usize = 1_024;

/// The log of one service.
pub(crate) struct Book {
    ring: Mutex<Ring>,
    news: watch::Sender<News>,
    /// What its guests may log.
    pub(crate) quota: Quota,
}

/// What followers wake up for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// Lines so far.
    lines: u64,
    /// Why there will be no more.
    pub(crate) end: Option<&'static str>,
}

impl Book {
    fn new() -> Book {
        Book {
            ring: Mutex::default(),
            news: watch::Sender::default(),
            quota: Quota::default(),
        }
    }

    fn keep(&self, level: Level, text: Text, most: usize) {
        let lines = {
            let mut ring = self.ring.lock();
            ring.push(level, text);
            ring.trim(most);
            ring.end()
        };
        self.news.send_modify(|news| news.lines = lines);
    }

    fn close(&self, why: &'static str) {
        self.news.send_modify(|news| news.end = Some(why));
    }

    /// Hears of new lines, and of the end.
    pub(crate) fn news(&self) -> watch::Receiver<News> {
        self.news.subscribe()
    }

    /// The latest lines of a level or a worse one.
    pub(crate) fn tail(&self, most: usize, level: Level) -> Part {
        self.ring.lock().tail(most, level)
    }

    /// Lines from a number on.
    pub(crate) fn since(&self, number: u64, level: Level) -> Part {
        self.ring.lock().since(number, level)
    }
}

/// The logs of all services.
#[derive(Default)]
pub(crate) struct Books {
    books: Mutex<HashMap<String, Arc<Book>>>,
}

/// As the log itself, they are the process's.
pub(crate) fn books() -> &'static Books {
    static BOOKS: LazyLock<Books> = LazyLock::new(Books::default);
    &BOOKS
}

impl Books {
    /// The log of a service; of an unknown one, when there are too many already,
    /// one that is not kept.
    pub(crate) fn book(&self, service: &str) -> Arc<Book> {
        let mut books = self.books.lock();
        if let Some(book) = books.get(service) {
            return book.clone();
        }
        let book = Arc::new(Book::new());
        if books.len() < SERVICES {
            books.insert(service.to_owned(), book.clone());
            let most = share(books.len());
            for book in books.values() {
                book.ring.lock().trim(most);
            }
        }
        book
    }

    fn keep(&self, service: &str, level: Level, text: Text) {
        let book = self.book(service);
        let most = share(self.books.lock().len());
        book.keep(level, text, most);
    }

    /// A service is gone, and its log with it.
    pub(crate) fn remove(&self, service: &str) {
        if let Some(book) = self.books.lock().remove(service) {
            book.close("the service was removed");
        }
    }

    /// The host ends: nobody is to wait for more.
    pub(crate) fn end(&self) {
        for book in self.books.lock().values() {
            book.close("the host stops");
        }
    }

    /// Guest lines that were dropped since the service was deployed.
    pub(crate) fn dropped(&self, service: &str) -> u64 {
        let books = self.books.lock();
        books.get(service).map_or(0, |book| book.quota.dropped())
    }
}

/// Bytes that each of so many services may keep.
fn share(services: usize) -> usize {
    ONE.min(ALL / services.max(1))
}

/// Keeps lines about services.
pub(crate) struct Keeper;

/// Lines so far, by level.
static LINES: [AtomicU64; LEVELS.len()] = [const { AtomicU64::new(0) }; LEVELS.len()];

const LEVELS: [Level; 5] = [
    Level::Trace,
    Level::Debug,
    Level::Info,
    Level::Warn,
    Level::Error,
];

/// Lines so far, by level.
pub(crate) fn counted() -> impl Iterator<Item = (Level, u64)> {
    let counts = LINES.iter().map(|lines| lines.load(Ordering::Relaxed));
    LEVELS.into_iter().zip(counts)
}

impl<S: Subscriber> Layer<S> for Keeper {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let line = Line::of(event);
        if let Some(lines) = LINES.get(line.level as usize) {
            lines.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(service) = &line.service {
            books().keep(service, line.level, line.json().into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(part: &Part) -> Vec<&str> {
        part.lines.iter().map(|line| &**line).collect()
    }

    #[test]
    fn each_service_has_its_lines_until_it_is_removed() {
        let books = Books::default();
        books.keep("a", Level::Info, "one".into());
        books.keep("b", Level::Warn, "two".into());
        let book = books.book("a");
        assert_eq!(texts(&book.tail(10, Level::Debug)), ["one"]);
        let news = book.news();
        books.remove("a");
        assert_eq!(news.borrow().end, Some("the service was removed"));
        assert_eq!(books.book("a").tail(10, Level::Debug).lines.len(), 0);
        assert_eq!(books.book("b").tail(10, Level::Debug).lines.len(), 1);
    }

    #[test]
    fn all_that_is_kept_is_bounded_however_many_services_there_are() {
        let books = Books::default();
        let line: Text = "x".repeat(10_000).into();
        for service in 0..SERVICES + 100 {
            for _ in 0..20 {
                books.keep(&service.to_string(), Level::Info, line.clone());
            }
        }
        let books = books.books.lock();
        assert_eq!(books.len(), SERVICES);
        let kept: usize = books.values().map(|book| book.ring.lock().bytes()).sum();
        assert!(kept <= ALL, "{kept}");
    }
}
