//! A client that sends the same request again and again over connections it keeps, and load made of
//! many of them.
//!
//! It shares the processors with the server that is measured. So its HTTP/1.1 does what must be done and no
//! more: the request's bytes are made once, and of an answer its status and length are read.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Error;

/// What to send.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) path: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
    pub(crate) http2: bool,
    /// The whole of it over HTTP/1.1.
    wire: Bytes,
}

impl Ask {
    pub(crate) fn new(
        path: &str,
        headers: Vec<(&'static str, String)>,
        body: Bytes,
        http2: bool,
    ) -> Ask {
        let mut wire = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\n");
        for (name, value) in &headers {
            wire.push_str(&format!("{name}: {value}\r\n"));
        }
        wire.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        let wire = [wire.as_bytes(), &body].concat().into();
        Ask { path: path.into(), headers, body, http2, wire }
    }

    /// The same, compressed.
    pub(crate) fn compressed(self) -> Result<Ask, Error> {
        let mut small = GzEncoder::new(Vec::new(), Compression::best());
        small.write_all(&self.body)?;
        let headers = [self.headers, vec![("content-encoding", "gzip".into())]].concat();
        Ok(Ask::new(&self.path, headers, small.finish()?.into(), self.http2))
    }
}

/// A connection.
pub(crate) struct Client {
    address: String,
    sender: Sender,
}

enum Sender {
    One(Plain),
    Two(http2::SendRequest<Full<Bytes>>),
}

/// A connection over HTTP/1.1.
struct Plain {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Plain {
    async fn send(&mut self, wire: &[u8]) -> Result<(StatusCode, Bytes), Error> {
        self.stream.write_all(wire).await?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err("the server hung up within an answer".into());
            }
            if let Some((status, head, length)) = self.head()? {
                while self.buffer.len() < head + length {
                    if self.stream.read_buf(&mut self.buffer).await? == 0 {
                        return Err("the server hung up within a body".into());
                    }
                }
                let body = Bytes::copy_from_slice(&self.buffer[head..head + length]);
                return Ok((status, body));
            }
        }
    }

    /// The status, and the lengths of head and body, once the head is there.
    fn head(&self) -> Result<Option<(StatusCode, usize, usize)>, Error> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(head) = response.parse(&self.buffer)? else {
            return Ok(None);
        };
        let mut named = response.headers.iter();
        let length = named.find(|header| header.name.eq_ignore_ascii_case("content-length"));
        let length = length.ok_or("an answer without Content-Length")?;
        let length = std::str::from_utf8(length.value)?.parse()?;
        let status = StatusCode::from_u16(response.code.ok_or("an answer without a status")?)?;
        Ok(Some((status, head, length)))
    }
}

impl Client {
    pub(crate) async fn connect(address: &str, http2: bool) -> Result<Client, Error> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let sender = if http2 {
            let io = TokioIo::new(stream);
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            Sender::Two(sender)
        } else {
            Sender::One(Plain { stream, buffer: Vec::with_capacity(16 << 10) })
        };
        Ok(Client { address: address.into(), sender })
    }

    /// One request; its status and its answer.
    pub(crate) async fn send(&mut self, ask: &Ask) -> Result<(StatusCode, Bytes), Error> {
        let sender = match &mut self.sender {
            Sender::One(plain) => return plain.send(&ask.wire).await,
            Sender::Two(sender) => sender,
        };
        let mut request =
            Request::post(format!("http://{}{}", self.address, ask.path)).version(Version::HTTP_2);
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        sender.ready().await?;
        let answer = sender.send_request(request.body(Full::new(ask.body.clone()))?).await?;
        let status = answer.status();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }
}

/// What became of a load.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// How long answered requests took.
    pub(crate) took: Vec<Duration>,
    pub(crate) refused_503: u64,
    pub(crate) other_errors: u64,
    pub(crate) lasted: Duration,
}

impl Loaded {
    /// Another load of the same server.
    pub(crate) fn add(&mut self, other: Loaded) {
        self.took.extend(other.took);
        self.refused_503 += other.refused_503;
        self.other_errors += other.other_errors;
        self.lasted += other.lasted;
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.took.len() as f64 / self.lasted.as_secs_f64()
    }

    pub(crate) fn p99_ms(&self) -> f64 {
        let mut took = self.took.clone();
        let at = took.len().saturating_sub(1) * 99 / 100;
        if took.is_empty() {
            return f64::NAN;
        }
        took.select_nth_unstable(at).1.as_secs_f64() * 1e3
    }
}

/// Load by so many connections, each sending its next request once it has its answer, or, with a
/// pace, so many requests a second altogether at most.
pub(crate) async fn load(
    address: &str,
    ask: &Ask,
    connections: usize,
    pace: Option<f64>,
    lasts: Duration,
) -> Result<Loaded, Error> {
    let began = Instant::now();
    let sent = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..connections)
        .map(|_| {
            let (address, ask, sent) = (address.to_owned(), ask.clone(), sent.clone());
            tokio::spawn(async move { one(&address, &ask, pace, &sent, began, lasts).await })
        })
        .collect();
    let mut all = Loaded::default();
    for task in tasks {
        all.add(task.await?);
    }
    all.lasted = began.elapsed();
    Ok(all)
}

async fn one(
    address: &str,
    ask: &Ask,
    pace: Option<f64>,
    sent: &AtomicU64,
    began: Instant,
    lasts: Duration,
) -> Loaded {
    let mut loaded = Loaded::default();
    let mut client = None;
    while began.elapsed() < lasts {
        if let Some(pace) = pace {
            let turn = sent.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep_until((began + Duration::from_secs_f64(turn as f64 / pace)).into())
                .await;
        }
        let sending = Instant::now();
        let answer = async {
            let mut connected = match client.take() {
                Some(client) => client,
                None => Client::connect(address, ask.http2).await?,
            };
            let (status, _) = connected.send(ask).await?;
            client = Some(connected);
            Ok::<_, Error>(status)
        };
        match answer.await {
            Ok(StatusCode::OK) => loaded.took.push(sending.elapsed()),
            Ok(StatusCode::SERVICE_UNAVAILABLE) => loaded.refused_503 += 1,
            Ok(_) | Err(_) => loaded.other_errors += 1,
        }
    }
    loaded
}
