//! One port for everything: HTTP/1.1, HTTP/2 without TLS, and gRPC on it. And how it ends: once the
//! container is told to stop, what is in flight is answered.

use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, Version};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use socket2::{SockFilter, SockRef};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::io::InspectReader;
use tonic::body::Body;

use crate::app::App;
use crate::settings::Settings;
use crate::silence::{self, Silence};
use crate::{grpc, log, rest};

/// The most bytes of a request's headers.
const HEADER_BYTES: usize = 64 << 10;

/// How many requests one HTTP/2 connection may have at once.
const STREAMS: u32 = 256;

/// How many bytes of an HTTP/2 request may come before they are read, and twice as many of all those of a
/// connection. An image of 224 x 224 fits, so that nobody waits for leave to send the rest of one.
const WINDOW: u32 = 1 << 20;

/// How many bytes may come in one frame: the fewer, the less there is to do for each.
const FRAME: u32 = 256 << 10;

/// How long a client may leave what was sent to it unread.
const UNREAD: Duration = Duration::from_secs(60);

/// Errors that say there are more connections than can be had.
const MEANS_CROWDED: [i32; 4] = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];

/// How long nothing must have come before a server that is to stop stops listening.
const QUIET: Duration = Duration::from_millis(250);

/// Listens until the container is told to stop, and answers what is in flight then.
pub(crate) async fn serve(app: Arc<App>, settings: &Settings) -> std::io::Result<()> {
    let listener = bind(settings.port).await?;
    let mut stop = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    log::note(&format!("listening on port {}", listener.local_addr()?.port()));
    let connections =
        Connections { app, crowded: Arc::default(), end: watch::Sender::new(End::NotYet) };
    loop {
        tokio::select! {
            accepted = listener.accept() => connections.take(accepted).await,
            _ = stop.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    log::note("told to stop; requests in flight are answered");
    connections.drain(listener, settings.drain).await;
    Ok(())
}

/// All addresses, of both families where there are two.
async fn bind(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind(("0.0.0.0", port)).await,
    }
}

/// How near a container's end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    NotYet,
    /// Whoever asks over HTTP/2 is told to go elsewhere: it knows which of its requests are still answered.
    /// Over HTTP/1.1 the next answer says so, because a connection closed before it may lose a request.
    Near,
    /// Connections on which nothing is under way are closed.
    Here,
}

struct Connections {
    app: Arc<App>,
    /// Whether there are more than can be had.
    crowded: Arc<AtomicBool>,
    /// What connections are told; each of them listens as long as it lives.
    end: watch::Sender<End>,
}

impl Connections {
    async fn take(&self, accepted: std::io::Result<(TcpStream, SocketAddr)>) {
        let (stream, _) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if error.raw_os_error().is_some_and(|code| MEANS_CROWDED.contains(&code)) {
                    // Who asks nothing is closed soon.
                    self.crowded.store(true, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                return;
            }
        };
        self.crowded.store(false, Ordering::Relaxed);
        // Answers come in one piece, and whoever does not read them is not waited for. Failing to say so
        // costs time, nothing else.
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(UNREAD));
        let silence = Arc::new(Silence::new());
        let heard = silence.clone();
        let stream = InspectReader::new(stream, move |bytes: &[u8]| heard.heard(bytes));
        let (app, told) = (self.app.clone(), silence.clone());
        let service =
            hyper::service::service_fn(move |request| answer(app.clone(), told.clone(), request));
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .header_read_timeout(None)
            .max_buf_size(HEADER_BYTES)
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(HEADER_BYTES as u32)
            .max_concurrent_streams(STREAMS)
            .keep_alive_interval(Duration::from_secs(30))
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(2 * WINDOW)
            .max_frame_size(FRAME);
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let (mut end, crowded) = (self.end.subscribe(), self.crowded.clone());
        tokio::spawn(async move {
            let mut connection = pin!(connection);
            let (mut told, mut look) = (false, silence::LOOK);
            loop {
                tokio::select! {
                    biased;
                    // A client that goes away is no error of ours.
                    _ = &mut connection => break,
                    Ok(()) = end.changed() => look = QUIET / 10,
                    () = tokio::time::sleep(look) => {
                        if silence.is_too_long(crowded.load(Ordering::Relaxed)) {
                            break;
                        }
                    }
                }
                let leaves = match *end.borrow() {
                    End::NotYet => false,
                    End::Near => silence.is_http2(),
                    // What begins to come is waited for a moment longer.
                    End::Here => !silence.is_beginning(QUIET),
                };
                if leaves && !told {
                    connection.as_mut().graceful_shutdown();
                    told = true;
                }
            }
        });
    }

    /// Takes connections until nothing has come for a moment in which `is_quiet`, or until so late.
    async fn take_until_quiet(
        &self,
        listener: &TcpListener,
        latest: Instant,
        is_quiet: impl Fn() -> bool,
    ) {
        let mut quiet_since = Instant::now();
        while Instant::now() < latest && quiet_since.elapsed() < QUIET {
            let accepted = tokio::time::timeout(QUIET / 10, listener.accept()).await;
            let came = accepted.is_ok();
            if let Ok(accepted) = accepted {
                self.take(accepted).await;
            }
            if came || !is_quiet() {
                quiet_since = Instant::now();
            }
        }
    }

    /// Answers what is in flight or still comes, closes connections with their next answer, and
    /// stops listening once nothing has come for a moment, or when half of the time is over: what has
    /// come by then shall be answered, too. Then nobody new is let in, and whoever was already is taken.
    async fn drain(self, listener: TcpListener, limit: Duration) {
        self.app.draining.store(true, Ordering::Relaxed);
        self.end.send_replace(End::Near);
        let began = Instant::now();
        let end = began + limit;
        self.take_until_quiet(&listener, began + limit / 2, || self.app.stats.in_flight() == 0)
            .await;
        refuse_new(&listener);
        // Their connections are there for the system, and not yet for this program.
        self.take_until_quiet(&listener, began + limit * 3 / 4, || true).await;
        drop(listener);
        self.end.send_replace(End::Here);
        let left = end.saturating_duration_since(Instant::now());
        if tokio::time::timeout(left, self.end.closed()).await.is_err() {
            self.app.cuts_off.store(true, Ordering::Relaxed);
            let cut = self.app.stats.in_flight();
            if cut > 0 {
                log::error("requests were cut off", &format!("{cut} took longer than {limit:?}"));
            }
        }
        self.app.queue.close();
    }
}

/// Has the system ignore who wants to connect from now on; a client tries again a second later, and is
/// refused then. Closing at once would break connections that were made and not yet taken. Where this cannot
/// be had they are broken.
fn refuse_new(listener: &TcpListener) {
    // A segment's flags, of which SYN without ACK begins a connection: classic BPF, as in
    // <https://www.kernel.org/doc/html/latest/networking/filter.html>.
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const SYN_AND_ACK: u32 = 0x12;
    let (load_byte, and, is_equal, answer) = (0x30, 0x54, 0x15, 0x06);
    let _ = SockRef::from(listener).attach_filter(&[
        SockFilter::new(load_byte, 0, 0, FLAGS),
        SockFilter::new(and, 0, 0, SYN_AND_ACK),
        SockFilter::new(is_equal, 0, 1, SYN),
        SockFilter::new(answer, 0, 0, 0),
        SockFilter::new(answer, 0, 0, u32::MAX),
    ]);
}

async fn answer(
    app: Arc<App>,
    silence: Arc<Silence>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let version = request.version();
    silence.asked(version);
    let mut response = match grpc::is_grpc(request.headers()) {
        true => grpc::answer(app.clone(), request).await,
        false => rest::answer(app.clone(), request).await.map(Body::new),
    };
    if app.draining.load(Ordering::Relaxed) && version < Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    silence.answered(version);
    Ok(response)
}
