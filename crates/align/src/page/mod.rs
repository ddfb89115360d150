//! A page on this machine on which people rank responses: one prompt at a time, its responses in an order that is drawn for each person,
//! without where they come from. A judgement is on disk before the next prompt is shown.
//!
//! The server listens on loopback alone, and answers only those who know the token in its address. What it shows are texts of models:
//! the page puts them in as text, and its policy lets no other script run.

mod board;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::{get, post},
};
pub use board::Board;
use board::Judgement;
use serde::Deserialize;
use serde_json::json;

use crate::{AlignError, respond::Responses};

const PAGE: &str = include_str!("page.html");
/// Of what a person sends: ranks and a note.
const MOST_BYTES: usize = 64 << 10;

struct Server {
    board: Mutex<Board>,
    token: String,
}

/// Serve the ranking of `responses` into the file `out` until `until` is over; `tell` is told the address once. `port` 0 takes any that
/// is free; each prompt is shown to `overlap` people.
/// # Errors
/// When another server has the file, it cannot be read, or the port is taken.
pub fn serve(
    responses: Vec<Responses>,
    out: &Path,
    port: u16,
    overlap: usize,
    tell: impl FnOnce(&str),
    until: impl Fn() -> bool + Send + 'static,
) -> Result<(), AlignError> {
    let board = Board::open(responses, out, overlap)?;
    let seed = format!("{:?} {}", std::time::SystemTime::now(), std::process::id());
    let token = blake3::hash(seed.as_bytes()).to_hex()[..24].to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AlignError::io("serve", out))?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
            .await
            .map_err(AlignError::io("listen for", out))?;
        let address = listener.local_addr().map_err(AlignError::io("listen for", out))?;
        tell(&format!("http://{address}/?ticket={token}"));
        let server = Arc::new(Server { board: Mutex::new(board), token });
        let ended = async move {
            while !until() {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        };
        axum::serve(listener, routes(server)).with_graceful_shutdown(ended).await.map_err(AlignError::io("serve", out))
    })
}

fn routes(server: Arc<Server>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/api/next", get(next))
        .route("/api/judge", post(judge))
        .route("/api/undo", post(undo))
        .layer(DefaultBodyLimit::max(MOST_BYTES))
        .with_state(server)
}

/// Who asks.
#[derive(Deserialize)]
struct Who {
    #[serde(default)]
    ticket: String,
    #[serde(default)]
    name: String,
}

impl Server {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What whoever does not know the token, or came by another page, is told.
    fn refusal(&self, who: &Who, headers: &HeaderMap) -> Option<Response> {
        let is_own = |name| headers.get(name).and_then(|value| value.to_str().ok()).is_none_or(is_loopback);
        let is_known = who.ticket == self.token && is_own(header::HOST) && is_own(header::ORIGIN);
        (!is_known).then(|| (StatusCode::FORBIDDEN, "open the address that the command printed").into_response())
    }
}

/// Whether a host or origin is this machine by number: names may be made to lead here.
fn is_loopback(value: &str) -> bool {
    let host = value.strip_prefix("http://").unwrap_or(value);
    host.starts_with("127.0.0.1:") || host.starts_with("localhost:")
}

async fn page(State(server): State<Arc<Server>>, Query(who): Query<Who>, headers: HeaderMap) -> Response {
    if let Some(refused) = server.refusal(&who, &headers) {
        return refused;
    }
    let nonce = &server.token;
    let policy = format!(
        "default-src 'none'; connect-src 'self'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'"
    );
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::REFERRER_POLICY, "no-referrer".into()),
        (header::CACHE_CONTROL, "no-store".into()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".into()),
    ];
    (headers, Html(PAGE.replace("NONCE", nonce))).into_response()
}

async fn next(State(server): State<Arc<Server>>, Query(who): Query<Who>, headers: HeaderMap) -> Response {
    if let Some(refused) = server.refusal(&who, &headers) {
        return refused;
    }
    Json(server.board().next(&who.name)).into_response()
}

async fn judge(
    State(server): State<Arc<Server>>,
    Query(who): Query<Who>,
    headers: HeaderMap,
    Json(judgement): Json<Judgement>,
) -> Response {
    if let Some(refused) = server.refusal(&who, &headers) {
        return refused;
    }
    let mut board = server.board();
    match board.judge(&who.name, judgement) {
        Ok(()) => Json(board.next(&who.name)).into_response(),
        Err(problem) => (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({"problem": problem}))).into_response(),
    }
}

async fn undo(State(server): State<Arc<Server>>, Query(who): Query<Who>, headers: HeaderMap) -> Response {
    if let Some(refused) = server.refusal(&who, &headers) {
        return refused;
    }
    let mut board = server.board();
    match board.undo(&who.name) {
        Ok(task) => Json(board.show(&who.name, task)).into_response(),
        Err(problem) => (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({"problem": problem}))).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpStream,
        sync::{
            atomic::{AtomicBool, Ordering},
            mpsc,
        },
    };

    use super::*;

    fn ask(address: &str, method: &str, path: &str, host: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn only_who_knows_the_token_is_served_and_what_is_judged_is_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("p.jsonl");
        let hostile = "<script>alert(1)</script>";
        let one = Responses {
            prompt: hostile.into(),
            responses: vec!["a".into(), "b".into()],
            seeds: vec![],
            model: String::new(),
            tokenizer: None,
            log_probs: vec![],
            rewards: vec![],
        };
        let (send, receive) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let (until, path) = (stop.clone(), out.clone());
        let server = std::thread::spawn(move || {
            serve(vec![one], &path, 0, 1, |address| send.send(address.to_owned()).unwrap(), move || until.load(Ordering::Relaxed))
        });
        let url = receive.recv().unwrap();
        let (address, token) = url.strip_prefix("http://").unwrap().split_once("/?ticket=").unwrap();
        let page = ask(address, "GET", &format!("/?ticket={token}"), address, "");
        assert!(page.starts_with("HTTP/1.1 200") && page.contains("default-src 'none'") && !page.contains(hostile), "{page}");
        for (path, host) in
            [("/".to_owned(), address), ("/?ticket=guess".into(), address), (format!("/?ticket={token}"), "evil.example:80")]
        {
            assert!(ask(address, "GET", &path, host, "").starts_with("HTTP/1.1 403"), "{path} {host}");
        }
        let next = ask(address, "GET", &format!("/api/next?ticket={token}&name=ann"), address, "");
        assert!(next.contains("application/json") && next.contains("<script>"), "as data: {next}");
        let wrong = ask(address, "POST", &format!("/api/judge?ticket={token}&name=ann"), address, r#"{"task":0,"ranks":[0]}"#);
        assert!(wrong.starts_with("HTTP/1.1 422") && !out.exists(), "{wrong}");
        let judged = ask(address, "POST", &format!("/api/judge?ticket={token}&name=ann"), address, r#"{"task":0,"ranks":[0,1]}"#);
        assert!(judged.starts_with("HTTP/1.1 200") && judged.contains("\"done\":1"), "{judged}");
        assert_eq!(crate::preferences::read(&out, &crate::template::Chat::shown()).unwrap().all.len(), 1);
        stop.store(true, Ordering::Relaxed);
        server.join().unwrap().unwrap();
    }
}
