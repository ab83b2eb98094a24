//! What a request may ask for. Every refusal names the limit.

/// Bounds on a request, checked before memory is spent on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Elements of one tensor.
    pub elements: usize,
}

impl Default for Limits {
    /// 32 MiB (Cloud Run's limit over HTTP/1.1; Lambda's own is lower), 16 Mi elements.
    fn default() -> Self {
        Self { body_bytes: 32 << 20, elements: 16 << 20 }
    }
}
