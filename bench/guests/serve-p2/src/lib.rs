//! The same work as a component of wasi:http 0.2, for `wasmtime serve`.

use std::io::{Read as _, Write as _};

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

struct Serve;

wasip2::http::proxy::export!(Serve);

impl Guest for Serve {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let (method, body) = match request.method() {
            Method::Get => ("GET", Vec::new()),
            Method::Post => ("POST", read(&request)),
            _ => ("", Vec::new()),
        };
        let path = request.path_with_query().unwrap_or_default();
        let answer = bench_work::answer(method, &path, body);

        // With a length, so that it need not be sent in chunks.
        let length = answer.body.len().to_string().into_bytes();
        let fields = [
            (
                "content-type".to_owned(),
                answer.content_type.as_bytes().to_vec(),
            ),
            ("content-length".to_owned(), length),
        ];
        let fields = Fields::from_list(&fields).expect("these are header fields");
        let response = OutgoingResponse::new(fields);
        response
            .set_status_code(answer.status)
            .expect("it is a status");
        let body = response.body().expect("it is taken once");
        ResponseOutparam::set(out, Ok(response));
        {
            let mut stream = body.write().expect("it is taken once");
            stream.write_all(&answer.body).expect("the client listens");
        }
        OutgoingBody::finish(body, None).expect("all of it was written");
    }
}

fn read(request: &IncomingRequest) -> Vec<u8> {
    let body = request.consume().expect("it is taken once");
    let mut stream = body.stream().expect("it is taken once");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("the client sends");
    bytes
}
