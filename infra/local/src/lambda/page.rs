//! Lists in pages.

use serde_json::{Value, json};

/// Which part of a list is asked for. The marker is the index of the first item.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) marker: Option<String>,
    pub(crate) max_items: Option<usize>,
}

impl Page {
    /// The page of a list, with the marker of the next one.
    pub(crate) fn cut(&self, key: &str, all: Vec<Value>) -> Value {
        let from = self.marker.as_ref().and_then(|marker| marker.parse().ok()).unwrap_or(0usize);
        let most = self.max_items.unwrap_or(50).clamp(1, 10_000);
        let total = all.len();
        let page: Vec<Value> = all.into_iter().skip(from).take(most).collect();
        let next = from + page.len();
        let mut wire = json!({ key: page });
        if next < total {
            wire["NextMarker"] = json!(next.to_string());
        }
        wire
    }
}
