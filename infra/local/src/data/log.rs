//! What a process prints: kept in a file, remembered for the log tail, and told to whoever wants it.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// What an Invoke's log tail holds at most.
const TAIL: usize = 4096;

/// The longest line that is kept whole.
const LINE: u64 = 256 << 10;

/// Who is told of each line.
pub(crate) type Told = Box<dyn Fn(&[u8]) + Send + Sync>;

/// One process's log.
pub(crate) struct Log {
    told: Told,
    inner: Mutex<Inner>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("inner", &self.inner).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Inner {
    file: File,
    tail: Vec<u8>,
}

impl Log {
    /// Appends to the file at `path`.
    pub(crate) fn open(path: &Path, told: Told) -> std::io::Result<Log> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = File::options().create(true).append(true).open(path)?;
        Ok(Log { told, inner: Mutex::new(Inner { file, tail: Vec::new() }) })
    }

    /// Appends one line, without its end.
    pub(crate) fn line(&self, line: &[u8]) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let line = [line, b"\n"].concat();
        // A full disk must not stop the function: the line is lost, the request is not.
        let _ = inner.file.write_all(&line);
        inner.tail.extend(&line);
        let surplus = inner.tail.len().saturating_sub(TAIL);
        inner.tail.drain(..surplus);
        drop(inner);
        (self.told)(line.strip_suffix(b"\n").unwrap_or(&line));
    }

    /// Begins a request: the tail starts here, but keeps what the process said while it started.
    pub(crate) fn begin(&self, line: &str, keep: bool) {
        if !keep {
            self.inner.lock().unwrap_or_else(PoisonError::into_inner).tail.clear();
        }
        self.line(line.as_bytes());
    }

    /// The last bytes of the log since the request began.
    pub(crate) fn tail(&self) -> Vec<u8> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).tail.clone()
    }

    /// Reads a stream to its end, line by line.
    pub(crate) async fn follow(self: Arc<Log>, stream: impl AsyncRead + Unpin) {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut reader).take(LINE).read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            self.line(text);
        }
    }
}
