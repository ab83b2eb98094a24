//! Telling another service of a release: at its start, at every move with the verdicts behind it,
//! and at its end. A release never waits for it.

use std::time::Duration;

use serde_json::{Value, json};
use slsml_release::State;
use slsml_release::journal::{Entry, Fact};
use tokio::sync::{mpsc, oneshot};

use crate::failure::Failure;

/// The variable with the secret that bodies are signed with.
const SECRET: &str = "SLSML_WEBHOOK_SECRET";

/// The header with the signature: `sha256=` and the body's HMAC-SHA-256 in hexadecimal.
const SIGNATURE: &str = "x-slsml-signature";

/// How often a delivery is tried, and how long the first pause is; each is twice the one before.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);

/// How long one try may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long the end of a release waits for what is still to be delivered.
const AT_THE_END: Duration = Duration::from_secs(15);

/// A service that is told.
#[derive(Debug)]
pub(crate) struct Webhook {
    queue: mpsc::UnboundedSender<Message>,
}

#[derive(Debug)]
enum Message {
    Deliver(Value),
    /// Everything before this was delivered or given up; what failed last.
    Flush(oneshot::Sender<Option<String>>),
}

impl Webhook {
    /// Starts delivering to a URL, one after the other, beside everything else.
    pub(crate) fn start(url: &str) -> Result<Webhook, Failure> {
        let wrong = |why: &dyn std::fmt::Display| {
            Failure::usage(format!("the webhook `{url}` cannot be used: {why}"))
        };
        let url = reqwest::Url::parse(url).map_err(|error| wrong(&error))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong(&"it must begin with https:// or http://"));
        }
        // Another part of the program may have chosen one already.
        let client = reqwest::Client::builder().timeout(TIMEOUT).build();
        let client = client.map_err(|error| wrong(&error))?;
        let secret = std::env::var(SECRET).ok().filter(|secret| !secret.is_empty());
        let (queue, messages) = mpsc::unbounded_channel();
        tokio::spawn(deliver(messages, client, url, secret));
        Ok(Webhook { queue })
    }

    /// Tells of a line of the journal, if it is one to tell of.
    pub(crate) fn tell(&self, entry: &Entry, state: &State) {
        if let Some(body) = body(entry, state) {
            // Nobody listens any more only when the program ends.
            let _ = self.queue.send(Message::Deliver(body));
        }
    }

    /// Waits a while for what is still to be delivered; what went wrong.
    pub(crate) async fn finish(&self) -> Option<String> {
        let (done, waiting) = oneshot::channel();
        let _ = self.queue.send(Message::Flush(done));
        match tokio::time::timeout(AT_THE_END, waiting).await {
            Ok(failed) => failed.ok().flatten(),
            Err(_) => Some(format!("not delivered within {} s", AT_THE_END.as_secs())),
        }
    }
}

/// What is sent of a line.
fn body(entry: &Entry, state: &State) -> Option<Value> {
    let (event, more) = match &entry.fact {
        Fact::Began(_) => ("began", json!({})),
        Fact::Intended(intent) if intent.split.is_some() => (
            "verdict",
            json!({ "moves_to": intent.split, "next": intent.to, "judgements": intent.judgements }),
        ),
        Fact::Ended { outcome } => ("ended", json!({ "outcome": outcome })),
        // A move back or to the end ends it, without another line.
        Fact::Moved { .. } if state.ended.is_some() => ("ended", json!({ "outcome": state.ended })),
        _ => return None,
    };
    let mut body = json!({
        "version": 1,
        "event": event,
        "release": state.release,
        "target": state.target,
        "at_ms": u64::try_from(entry.at.as_millis()).unwrap_or(u64::MAX),
        "by": entry.by,
        "stable": state.stable,
        "candidate": state.candidate,
        "strategy": state.strategy.name,
        "split": state.observed.split,
    });
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    Some(body)
}

async fn deliver(
    mut messages: mpsc::UnboundedReceiver<Message>,
    client: reqwest::Client,
    url: reqwest::Url,
    secret: Option<String>,
) {
    let mut failed = None;
    while let Some(message) = messages.recv().await {
        match message {
            Message::Flush(done) => {
                // Whoever asked may have stopped waiting.
                let _ = done.send(failed.take());
            }
            Message::Deliver(body) => {
                if let Err(why) = post(&client, &url, secret.as_deref(), &body).await {
                    failed = Some(why);
                }
            }
        }
    }
}

/// Sends one body, again and again if the service cannot take it now.
async fn post(
    client: &reqwest::Client,
    url: &reqwest::Url,
    secret: Option<&str>,
    body: &Value,
) -> Result<(), String> {
    let text = body.to_string();
    let mut pause = PAUSE;
    for attempt in 1.. {
        let mut request = client.post(url.clone()).header("content-type", "application/json");
        if let Some(secret) = secret {
            request = request.header(SIGNATURE, signature(secret, text.as_bytes()));
        }
        let why = match request.body(text.clone()).send().await {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            Ok(answer) if answer.status().is_client_error() && answer.status() != 429 => {
                return Err(format!("it was answered with {}", answer.status()));
            }
            Ok(answer) => format!("it was answered with {}", answer.status()),
            // The URL may hold a secret of its own.
            Err(error) => error.without_url().to_string(),
        };
        if attempt == TRIES {
            return Err(why);
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    Ok(())
}

fn signature(secret: &str, body: &[u8]) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let tag = ring::hmac::sign(&key, body);
    let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

#[cfg(test)]
mod tests {
    use super::signature;

    /// The second test case of RFC 4231.
    #[test]
    fn bodies_are_signed_as_the_standard_says() {
        assert_eq!(
            signature("Jefe", b"what do ya want for nothing?"),
            "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}
