//! An instance: a component's memory and code, running one invocation at a
//! time.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use tidemill_manifest::{DESCRIBE, EVENT_LOOP, EVENTS, HTTP};
use wasmtime::component::{
    ComponentExportIndex, ComponentNamedList, InstancePre, Lift, Lower, TypedFunc,
};
use wasmtime::{PoolConcurrencyLimitError, Store, Trap, UpdateDeadline};

use super::batch::Hand;
use super::bindings::events as events_wit;
use super::bindings::http::exports::tidemill::service::http as http_wit;
use super::component::{Component, Exports};
use super::context::{Context, HANDLES};
use super::feed::{Feed, Pulling, of_event, untold};
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
    run: Option<TypedFunc<(), ()>>,
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

/// What a call came to in which events were pulled. What became of each is told
/// already.
pub(crate) struct Pulled {
    /// How it ended.
    pub(crate) ended: Result<(), Failure>,
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
        let held = Held::default();
        let mut store = Store::new(pre.engine(), Context::new(component, held.clone()));
        store.limiter(|context| &mut context.memory);
        store.set_hostcall_fuel(component.grants.handed);
        store.set_max_component_handles(HANDLES);
        interrupt(&mut store, component, held.clone());
        let limit = component.manifest.limits.time;
        held.begin(store.data().deadline);
        let made = bounded(&held, pin!(pre.instantiate_async(&mut store))).await;
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
        let run = typed(&mut store, &instance, EVENT_LOOP, exports.run)?;
        Ok(Instance {
            store,
            http,
            events,
            run,
            describe,
            calls: 0,
            held,
        })
    }

    /// How many calls it has taken.
    pub fn calls(&self) -> u32 {
        self.calls
    }

    /// Begins a call.
    fn begin(&mut self, view: View, identity: Identity, time: Duration) {
        self.calls = self.calls.saturating_add(1);
        self.store.set_epoch_deadline(1);
        let deadline = Instant::now() + time;
        self.store.data_mut().begin(view, identity, deadline);
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
        self.begin(view, Identity::Request(request.number), time);
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
            let mut call = Box::pin(handler.call_async(&mut self.store, (request,)));
            bounded(&self.held, call.as_mut()).await
        };
        match self.finished(called, time) {
            Ok((response,)) => {
                let effects = self.end();
                let failed = response.status >= 500;
                let result = match self.store.data().crowded() {
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
        self.begin(view, identity, time);
        let Some(handler) = &self.events else {
            return self.called(Err(no_handler("events")), true);
        };
        let event = of_event(event, attempt);
        let called = {
            let call = pin!(handler.call_async(&mut self.store, (event,)));
            bounded(&self.held, call).await
        };
        match self.finished(called, time) {
            Ok((result,)) => {
                let effects = self.end();
                let said = self.store.data().told(result);
                self.called(said.map(|()| ((), effects)), true)
            }
            Err(failure) => self.called(Err(failure), false),
        }
    }

    /// Has the guest take events for as long as there are some.
    pub(crate) async fn pull(
        mut self,
        feed: Arc<Mutex<dyn Feed>>,
        time: Duration,
        reuse: u32,
    ) -> Pulled {
        let left = reuse.saturating_sub(self.calls);
        self.store.set_epoch_deadline(1);
        let context = self.store.data_mut();
        // Until it takes the first one.
        context.begin(View::NotGranted, Identity::Start, Instant::now() + time);
        context.pulling = Some(Pulling {
            feed,
            time,
            left,
            taken: 0,
            runs: false,
            hand: Hand::default(),
        });
        let called = match &self.run {
            Some(run) => {
                let call = pin!(run.call_async(&mut self.store, ()));
                bounded(&self.held, call).await
            }
            None => Ok(Ok(())),
        };
        let ended = self.finished(called, time);
        let reusable = ended.is_ok();
        let context = self.store.data_mut();
        let taken = context.pulling.as_ref().map_or(0, |pulling| pulling.taken);
        let untold = match &ended {
            Ok(()) => untold(),
            Err(failure) => failure.clone(),
        };
        context.pulled(Err(untold), Instant::now());
        context.pulling = None;
        self.calls = self.calls.saturating_add(taken);
        Pulled {
            ended,
            instance: reusable.then_some(self),
        }
    }

    /// Asks for the OpenAPI document.
    pub(super) async fn describe(&mut self, time: Duration) -> Result<String, Failure> {
        self.begin(View::NotGranted, Identity::Start, time);
        let Some(describe) = &self.describe else {
            return Err(no_handler("describe"));
        };
        let called = {
            let call = pin!(describe.call_async(&mut self.store, ()));
            bounded(&self.held, call).await
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
}

/// Has a guest that runs interrupted at every tick: then it is seen whether its
/// time is up, others get their turn, and one that runs for several slices
/// needs a turn itself.
fn interrupt(store: &mut Store<Context>, component: &Component, held: Held) {
    let (turns, habit) = (component.turns.clone(), component.habit.clone());
    let service = component.origin.service.clone();
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |mut store| {
        turns.interrupted();
        let context = store.data_mut();
        let now = Instant::now();
        if now >= context.deadline {
            return Err(OutOfTime.into());
        }
        context.slices = context.slices.saturating_add(1);
        if !habit.is_long(context.slices, now) {
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
    mut call: Pin<&mut impl Future<Output = wasmtime::Result<T>>>,
) -> Result<wasmtime::Result<T>, Late> {
    let deadline = || held.deadline().map(tokio::time::Instant::from);
    let timer = tokio::time::sleep_until(deadline().unwrap_or_else(tokio::time::Instant::now));
    let mut late = pin!(timer);
    let mut is_late = |context: &mut std::task::Context<'_>| {
        while late.as_mut().poll(context).is_ready() {
            // Another invocation may have begun in the same call.
            match deadline().filter(|deadline| *deadline > late.deadline()) {
                Some(later) => late.as_mut().reset(later),
                None => return true,
            }
        }
        false
    };
    poll_fn(|context| {
        // One that runs for long does not get another slice after its time.
        if held.is_long() && is_late(context) {
            return Poll::Ready(Err(Late));
        }
        match held.run(|| call.as_mut().poll(context)) {
            Poll::Ready(result) => Poll::Ready(Ok(result)),
            Poll::Pending if is_late(context) => Poll::Ready(Err(Late)),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
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
