//! What an instance carries: its WASI world, its limits, and the invocation
//! that runs in it. The host functions of `publisher` and `state` are here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use tidemill_manifest::Manifest;
use wasmtime::component::{HasData, ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_config::WasiConfigVariables;

use super::bindings::imports::tidemill::service::{publisher, state, types};
use super::component::Component;
use super::feed::Pulling;
use super::memory::MemoryLimit;
use super::output::GuestLog;
use super::turns::Held;
use crate::effects::{Effects, Message, row_size};
use crate::invocation::Identity;
use crate::limits::{Hits, Limit};
use crate::state::view::Range;
use crate::state::{RowKey, View, ViewError};

/// What a guest may hand over at once beside a body or a value.
const HANDED: usize = 4 << 20;
/// Handles, to pollables and the like, that a guest may have at once.
pub(super) const HANDLES: usize = 10_000;
/// Random bytes that a guest may ask for at once.
const RANDOM: u64 = 1 << 20;

/// What the manifest grants, ready to be asked on the hot path.
pub(super) struct Grants {
    publish: BTreeSet<Arc<str>>,
    event: u64,
    effects: usize,
    effects_size: u64,
    memory: u64,
    /// Bytes that the guest may hand over in one call of a host function, or as
    /// what it returns.
    pub(super) handed: usize,
}

impl Grants {
    pub(super) fn of(manifest: &Manifest) -> Grants {
        let topics = manifest.grants.publish.iter();
        Grants {
            publish: topics.map(|topic| topic.as_str().into()).collect(),
            event: manifest.limits.event,
            effects: manifest.limits.effects as usize,
            effects_size: manifest.limits.effects_size,
            memory: manifest.limits.memory,
            handed: usize::try_from(manifest.limits.response.max(manifest.limits.event))
                .unwrap_or(usize::MAX)
                .saturating_add(HANDED),
        }
    }
}

/// The data of one instance.
pub(super) struct Context {
    wasi: WasiCtx,
    resources: ResourceTable,
    settings: Arc<WasiConfigVariables>,
    grants: Arc<Grants>,
    pub(super) memory: MemoryLimit,
    /// The state that the running invocation sees.
    pub(super) view: View,
    /// What the running invocation has asked for so far.
    pub(super) effects: Effects,
    /// The limits that refused it something.
    pub(super) hits: Hits,
    /// When what runs has to end.
    pub(super) deadline: Instant,
    /// How often what runs was interrupted.
    pub(super) slices: u32,
    /// Which invocation runs, for its log lines.
    pub(super) identity: Arc<Mutex<Identity>>,
    /// Where it takes events, if it is called for that.
    pub(super) pulling: Option<Pulling>,
    /// What it has to do with turns.
    pub(super) held: Held,
}

impl Context {
    pub(super) fn new(component: &Component, held: Held) -> Context {
        let origin = &component.origin;
        let identity: Arc<Mutex<Identity>> = Arc::default();
        // No arguments, environment, files or network: only somewhere to write.
        let wasi = WasiCtx::builder()
            .max_random_size(RANDOM)
            .stdout(GuestLog::new(origin.clone(), "stdout", identity.clone()))
            .stderr(GuestLog::new(origin.clone(), "stderr", identity.clone()))
            .build();
        let mut resources = ResourceTable::new();
        resources.set_max_capacity(HANDLES);
        Context {
            wasi,
            resources,
            settings: component.settings.clone(),
            grants: component.grants.clone(),
            memory: MemoryLimit::new(component.grants.memory, component.memory.clone()),
            view: View::NotGranted,
            effects: Effects::default(),
            hits: Hits::default(),
            deadline: Instant::now() + component.manifest.limits.time,
            slices: 0,
            identity,
            pulling: None,
            held,
        }
    }

    /// An invocation begins, and has to end by then.
    pub(super) fn begin(&mut self, view: View, identity: Identity, deadline: Instant) {
        self.view = view;
        self.effects = Effects::default();
        *self.identity.lock() = identity;
        self.hits = Hits::default();
        self.memory.refused = None;
        self.deadline = deadline;
        self.slices = 0;
        self.held.begin(self.deadline);
    }

    pub(super) fn settings(&self) -> &WasiConfigVariables {
        &self.settings
    }

    /// Counts one more effect, of so many bytes and parts, if it is allowed.
    fn count(&mut self, size: usize, parts: usize) -> Result<(), String> {
        if self.effects.count >= self.grants.effects {
            self.hits.note(Limit::Effects);
            return Err(format!(
                "this invocation has published and written {} times, which is all that limits.effects allows",
                self.grants.effects
            ));
        }
        let asked = self.effects.asked.saturating_add(size + parts * PART);
        if asked as u64 > self.grants.effects_size {
            self.hits.note(Limit::EffectsSize);
            return Err(format!(
                "this invocation has published and written {asked} bytes; limits.effects-size allows {}",
                self.grants.effects_size
            ));
        }
        self.effects.count += 1;
        self.effects.asked = asked;
        Ok(())
    }
}

/// Bytes that each effect and each of its headers count beside what is in them:
/// the host holds them, too.
const PART: usize = 64;

impl WasiView for Context {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.resources,
        }
    }
}

/// Names the data that the host functions get.
pub(super) struct Host;

impl HasData for Host {
    type Data<'a> = &'a mut Context;
}

impl types::Host for Context {}

impl publisher::Host for Context {
    fn publish(&mut self, message: publisher::Message) -> Result<(), publisher::Error> {
        let Some(topic) = self.grants.publish.get(&*message.topic).cloned() else {
            return Err(publisher::Error::NotGranted(format!(
                "the manifest does not grant publishing to {:?}: add it to `publish` under [grants]",
                message.topic
            )));
        };
        let message = Message {
            topic,
            partition: None,
            key: message.key.map(Bytes::from),
            value: message.value.map(Bytes::from),
            headers: message
                .headers
                .into_iter()
                .map(|header| (header.name, header.value.map(Bytes::from)))
                .collect(),
        };
        let size = message.size();
        if size as u64 > self.grants.event {
            self.hits.note(Limit::Event);
            return Err(publisher::Error::TooLarge(format!(
                "the event has {size} bytes of key, value and headers; limits.event allows {}",
                self.grants.event
            )));
        }
        self.count(size, 1 + message.headers.len())
            .map_err(publisher::Error::TooMany)?;
        self.effects.messages.push(message);
        Ok(())
    }
}

impl Context {
    fn write(&mut self, row: RowKey, value: Option<Bytes>) -> Result<(), state::Error> {
        self.count(row_size(&row, &value), 1)
            .map_err(state::Error::TooMany)?;
        self.effects.rows.insert(row, value);
        Ok(())
    }
}

impl state::Host for Context {
    fn get(&mut self, table: String, key: Vec<u8>) -> Result<Option<Vec<u8>>, state::Error> {
        let value = self.view.get(&self.effects.rows, &table, &key)?;
        Ok(value.map(Vec::from))
    }

    fn get_all(&mut self, table: String, key: Vec<u8>) -> Result<Vec<state::Row>, state::Error> {
        let rows = self.view.get_all(&self.effects.rows, &table, &key)?;
        Ok(rows.into_iter().map(state::Row::from).collect())
    }

    fn put(&mut self, table: String, key: Vec<u8>, value: Vec<u8>) -> Result<(), state::Error> {
        let size = key.len() + value.len();
        let row = self.view.writable(&table, &key)?;
        if size as u64 > self.grants.event {
            self.hits.note(Limit::Event);
            return Err(state::Error::Invalid(format!(
                "the row has {size} bytes of key and value; limits.event allows {}",
                self.grants.event
            )));
        }
        self.write(row, Some(Bytes::from(value)))
    }

    fn delete(&mut self, table: String, key: Vec<u8>) -> Result<(), state::Error> {
        let row = self.view.writable(&table, &key)?;
        self.write(row, None)
    }

    fn scan(
        &mut self,
        table: String,
        range: state::Range,
    ) -> Result<Vec<state::Row>, state::Error> {
        let range = Range {
            start: range.start.as_deref(),
            end: range.end.as_deref(),
            limit: range.limit,
            reverse: range.reverse,
            bytes: self.grants.memory,
        };
        let rows = self.view.scan(&self.effects.rows, &table, range)?;
        Ok(rows.into_iter().map(state::Row::from).collect())
    }
}

impl From<crate::state::Row> for state::Row {
    fn from(row: crate::state::Row) -> state::Row {
        state::Row {
            shard: row.shard,
            key: row.key.into(),
            value: row.value.into(),
        }
    }
}

impl From<ViewError> for state::Error {
    fn from(error: ViewError) -> state::Error {
        let text = error.to_string();
        match error {
            ViewError::NotGranted => state::Error::NotGranted(text),
            ViewError::ReadOnly => state::Error::ReadOnly(text),
            ViewError::SeveralShards(_) => state::Error::SeveralShards(text),
            ViewError::Invalid(_) => state::Error::Invalid(text),
            ViewError::Restoring | ViewError::Store(_) => state::Error::Unavailable(text),
        }
    }
}
