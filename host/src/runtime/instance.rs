//! An instance: a component's memory and code, running one invocation at a
//! time.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use tidemill_manifest::{DESCRIBE, EVENTS, HTTP};
use wasmtime::component::{
    ComponentExportIndex, ComponentNamedList, InstancePre, Lift, Lower, TypedFunc,
};
use wasmtime::{PoolConcurrencyLimitError, Store, Trap, UpdateDeadline};

use super::bindings::events::exports::tidemill::service::events as events_wit;
use super::bindings::http::exports::tidemill::service::http as http_wit;
use super::component::{Component, Exports};
use super::context::{Context, HANDLES};
use super::memory::Refused;
use super::turns::Held;
use crate::effects::Effects;
use crate::invocation::{Event, Failure, Identity, Request, Response};
use crate::limits::{Hits, Limit};
use crate::state::View;

/// One instance of a component.
///
/// A call that ends well, or with a failure of the handler's own, leaves it fit
/// for the next one. After a trap or a deadline it must be dropped: the calls
/// take it by value and give it back only where it may be used again.
pub struct Instance {
    store: Store<Context>,
    http: Option<TypedFunc<(http_wit::Request,), (http_wit::Response,)>>,
    events: Option<TypedFunc<(events_wit::Event,), (Handled,)>>,
    describe: Option<TypedFunc<(), (String,)>>,
    calls: u32,
    held: Held,
}

/// What an event handler says of an event.
type Handled = Result<(), events_wit::Failure>;

/// What a call came to.
pub(crate) struct Called<T> {
    pub(crate) result: Result<(T, Effects), Failure>,
    /// Limits that refused it something, whatever it made of that.
    pub(crate) hits: Hits,
    /// The instance, if it may be used again.
    pub(crate) instance: Option<Instance>,
}

/// Ends a guest that loops: no timer would.
#[derive(Debug, thiserror::Error)]
#[error("the deadline has passed")]
struct OutOfTime;

impl Instance {
    pub(super) async fn new(
        component: &Component,
        pre: &InstancePre<Context>,
        exports: Exports,
    ) -> Result<Instance, Failure> {
        let mut store = Store::new(pre.engine(), Context::new(component));
        store.limiter(|context| &mut context.memory);
        store.set_hostcall_fuel(component.grants.handed);
        store.set_max_component_handles(HANDLES);
        let held = Held::default();
        interrupt(&mut store, component, held.clone());
        let limit = component.manifest.limits.time;
        let deadline = store.data().deadline;
        let made = bounded(&held, deadline, pin!(pre.instantiate_async(&mut store))).await;
        let instance = match made {
            Ok(Ok(instance)) => instance,
            Err(_) => return Err(Failure::Timeout { limit }),
            Ok(Err(error)) if error.is::<PoolConcurrencyLimitError>() => {
                let limit = Limit::HostInstances;
                return Err(Failure::Crowded { limit });
            }
            Ok(Err(error)) => {
                return Err(match refused(&store, &error, limit) {
                    Some(failure) => failure,
                    None => Failure::Instantiate(format!("{error:#}")),
                });
            }
        };
        let http = typed(&mut store, &instance, HTTP, exports.http)?;
        let events = typed(&mut store, &instance, EVENTS, exports.events)?;
        let describe = typed(&mut store, &instance, DESCRIBE, exports.describe)?;
        Ok(Instance {
            store,
            http,
            events,
            describe,
            calls: 0,
            held,
        })
    }

    /// How many calls it has taken.
    pub fn calls(&self) -> u32 {
        self.calls
    }

    /// Begins a call, which has to end by the time that is returned.
    fn begin(&mut self, view: View, identity: Identity, time: Duration) -> Instant {
        self.calls = self.calls.saturating_add(1);
        self.held.begin();
        self.store.set_epoch_deadline(1);
        let context = self.store.data_mut();
        context.view = view;
        context.effects = Effects::default();
        *context.identity.lock() = identity;
        context.hits = Hits::default();
        context.memory.refused = None;
        context.deadline = Instant::now() + time;
        context.slices = 0;
        context.deadline
    }

    fn end(&mut self) -> Effects {
        let context = self.store.data_mut();
        context.view = View::NotGranted;
        std::mem::take(&mut context.effects)
    }

    /// Calls the HTTP handler.
    pub(crate) async fn request(
        mut self,
        request: Request,
        view: View,
        time: Duration,
        max_response: u64,
    ) -> Called<Response> {
        let deadline = self.begin(view, Identity::Request(request.number), time);
        let Some(handler) = &self.http else {
            return self.called(Err(no_handler("requests")), true);
        };
        let request = http_wit::Request {
            method: request.method,
            target: request.target,
            scheme: "http".to_owned(),
            authority: request.authority,
            headers: request.headers,
            body: request.body,
        };
        let called = {
            let call = pin!(handler.call_async(&mut self.store, (request,)));
            bounded(&self.held, deadline, call).await
        };
        match self.finished(called, time) {
            Ok((response,)) => {
                let effects = self.end();
                let failed = response.status >= 500;
                let result = match self.crowded() {
                    Some(crowded) if failed => Err(crowded),
                    _ => check_response(response, max_response).map(|response| (response, effects)),
                };
                self.called(result, true)
            }
            Err(failure) => self.called(Err(failure), false),
        }
    }

    /// Calls the event handler.
    pub(crate) async fn event(
        mut self,
        event: &Event,
        attempt: u32,
        view: View,
        time: Duration,
    ) -> Called<()> {
        let identity = Identity::Event(event.topic.clone(), event.partition, event.offset);
        let deadline = self.begin(view, identity, time);
        let Some(handler) = &self.events else {
            return self.called(Err(no_handler("events")), true);
        };
        let event = events_wit::Event {
            topic: event.topic.to_string(),
            partition: event.partition.try_into().unwrap_or_default(),
            offset: event.offset.try_into().unwrap_or_default(),
            timestamp: event.timestamp.and_then(|time| time.try_into().ok()),
            key: event.key.as_deref().map(<[u8]>::to_vec),
            value: event.value.as_deref().map(<[u8]>::to_vec),
            headers: event
                .headers
                .iter()
                .map(|(name, value)| events_wit::Header {
                    name: name.clone(),
                    value: value.as_deref().map(<[u8]>::to_vec),
                })
                .collect(),
            attempt,
        };
        let called = {
            let call = pin!(handler.call_async(&mut self.store, (event,)));
            bounded(&self.held, deadline, call).await
        };
        match self.finished(called, time) {
            Ok((result,)) => {
                let effects = self.end();
                let result = match (result, self.crowded()) {
                    (Ok(()), _) => Ok(((), effects)),
                    (Err(_), Some(crowded)) => Err(crowded),
                    (Err(failure), None) => Err(failed(failure)),
                };
                self.called(result, true)
            }
            Err(failure) => self.called(Err(failure), false),
        }
    }

    /// Asks for the OpenAPI document.
    pub(super) async fn describe(&mut self, time: Duration) -> Result<String, Failure> {
        let deadline = self.begin(View::NotGranted, Identity::Start, time);
        let Some(describe) = &self.describe else {
            return Err(no_handler("describe"));
        };
        let called = {
            let call = pin!(describe.call_async(&mut self.store, ()));
            bounded(&self.held, deadline, call).await
        };
        let (document,) = self.finished(called, time)?;
        self.end();
        Ok(document)
    }

    fn finished<T>(
        &self,
        called: Result<wasmtime::Result<T>, Late>,
        limit: Duration,
    ) -> Result<T, Failure> {
        match called {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                Err(refused(&self.store, &error, limit).unwrap_or_else(|| trapped(&error)))
            }
            Err(_) => Err(Failure::Timeout { limit }),
        }
    }

    fn called<T>(self, result: Result<(T, Effects), Failure>, reusable: bool) -> Called<T> {
        Called {
            result,
            hits: self.store.data().hits,
            instance: reusable.then_some(self),
        }
    }

    /// What it means that a call failed which did not get the memory that it
    /// asked for, because others had it.
    fn crowded(&self) -> Option<Failure> {
        match self.store.data().memory.refused {
            Some(Refused::Crowded(limit)) => Some(Failure::Crowded { limit }),
            _ => None,
        }
    }
}

/// Has a guest that runs interrupted at every tick: then it is seen whether its
/// time is up, others get their turn, and one that runs for longer than a slice
/// needs a turn itself.
fn interrupt(store: &mut Store<Context>, component: &Component, held: Held) {
    let turns = component.turns.clone();
    let service = component.origin.service.clone();
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |mut store| {
        let context = store.data_mut();
        if Instant::now() >= context.deadline {
            return Err(OutOfTime.into());
        }
        context.slices = context.slices.saturating_add(1);
        if context.slices == 1 {
            return Ok(UpdateDeadline::Yield(1));
        }
        let next = held.next(turns.clone(), service.clone());
        Ok(UpdateDeadline::YieldCustom(1, Box::pin(next)))
    });
}

/// Its time is up.
struct Late;

/// Runs a call for as long as it may. Whenever it waits, its turn is another's.
async fn bounded<T>(
    held: &Held,
    deadline: Instant,
    mut call: Pin<&mut impl Future<Output = wasmtime::Result<T>>>,
) -> Result<wasmtime::Result<T>, Late> {
    let mut late = pin!(tokio::time::sleep_until(deadline.into()));
    poll_fn(|context| {
        // One that runs for long does not get another slice after its time.
        if held.is_long() && late.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(Late));
        }
        match held.run(|| call.as_mut().poll(context)) {
            Poll::Ready(result) => Poll::Ready(Ok(result)),
            Poll::Pending => late.as_mut().poll(context).map(|()| Err(Late)),
        }
    })
    .await
}

/// What a handler says of an event that it could not handle.
fn failed(failure: events_wit::Failure) -> Failure {
    match failure {
        events_wit::Failure::Retry(why) => Failure::Retry(why),
        events_wit::Failure::RetryAfter(later) => {
            Failure::RetryAfter(later.reason, Duration::from_millis(later.after))
        }
        events_wit::Failure::Reject(why) => Failure::Reject(why),
    }
}

/// An export as a function of the types that wit/ gives it.
fn typed<P, R>(
    store: &mut Store<Context>,
    instance: &wasmtime::component::Instance,
    name: &str,
    export: Option<ComponentExportIndex>,
) -> Result<Option<TypedFunc<P, R>>, Failure>
where
    P: ComponentNamedList + Lower,
    R: ComponentNamedList + Lift,
{
    let function = export.map(|export| instance.get_typed_func(store, export));
    function.transpose().map_err(|cause| {
        Failure::Instantiate(format!(
            "the export {name} has other types than wit/ says: {cause:#}"
        ))
    })
}

fn no_handler(kind: &str) -> Failure {
    Failure::Instantiate(format!("the component has no handler for {kind}"))
}

/// The limit that ended a guest, if it was one. One that is refused memory ends
/// itself, one way or another.
fn refused(store: &Store<Context>, error: &wasmtime::Error, time: Duration) -> Option<Failure> {
    if error.is::<OutOfTime>() {
        return Some(Failure::Timeout { limit: time });
    }
    Some(match store.data().memory.refused? {
        Refused::Own(limit) => Failure::Memory { limit },
        Refused::Crowded(limit) => Failure::Crowded { limit },
    })
}

/// What a trap means. Its backtrace is for the log of whoever wrote the
/// handler; clients never see it.
fn trapped(error: &wasmtime::Error) -> Failure {
    match error.downcast_ref::<Trap>() {
        Some(trap) => Failure::Trap(match backtrace(error) {
            Some(backtrace) => format!("{trap}\n{backtrace}"),
            None => trap.to_string(),
        }),
        None => Failure::Trap(format!("{error:#}")),
    }
}

fn backtrace(error: &wasmtime::Error) -> Option<String> {
    error
        .downcast_ref::<wasmtime::WasmBacktrace>()
        .map(|backtrace| backtrace.to_string().trim_end().to_owned())
}

/// Header fields that are the host's: the body's framing and the connection.
const OURS: [HeaderName; 6] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::DATE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Header fields of a response.
const FIELDS: usize = 500;
/// Bytes of names and values of a response's header fields: clients take hardly
/// more.
const HEADER: usize = 64 << 10;

fn check_response(response: http_wit::Response, max: u64) -> Result<Response, Failure> {
    let size = response.body.len();
    if size as u64 > max {
        return Err(Failure::ResponseTooLarge { size, limit: max });
    }
    let status = StatusCode::from_u16(response.status)
        .ok()
        .filter(|status| (200..600).contains(&status.as_u16()))
        .ok_or_else(|| {
            Failure::Invalid(format!(
                "the status {} is not one of 200 to 599",
                response.status
            ))
        })?;
    let fields = response.headers.len();
    let bytes = response.headers.iter();
    let bytes: usize = bytes.map(|(name, value)| name.len() + value.len()).sum();
    if fields > FIELDS || bytes > HEADER {
        return Err(Failure::Invalid(format!(
            "it has {fields} header fields of {bytes} bytes; at most {FIELDS} of {HEADER} are sent"
        )));
    }
    let mut headers = HeaderMap::with_capacity(fields + 2);
    for (name, value) in response.headers {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| Failure::Invalid(format!("{name:?} is not a name that HTTP allows")))?;
        let value = HeaderValue::from_bytes(&value).map_err(|_| {
            Failure::Invalid(format!("the value of {name} has bytes that HTTP forbids"))
        })?;
        if !OURS.contains(&name) && !is_hop_by_hop(name.as_str()) {
            headers.append(name, value);
        }
    }
    Ok(Response {
        status,
        headers,
        body: Bytes::from(response.body),
    })
}

/// Fields that mean one connection and not the message (RFC 9110, section
/// 7.6.1), in lower case.
pub(crate) fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}
