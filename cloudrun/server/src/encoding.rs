//! Compressed bodies: gzip and deflate, as the protocol's clients send and accept them.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use slsml_inference::ProtocolError;

/// An answer smaller than this is not worth compressing.
const WORTH_IT: usize = 1024;

/// Answers are for machines nearby: speed before size.
const LEVEL: Compression = Compression::fast();

/// A body as it was before it was compressed, up to a limit.
pub(crate) fn decompressed(
    headers: &HeaderMap,
    body: &[u8],
    limit: usize,
) -> Result<Option<Vec<u8>>, ProtocolError> {
    let encoding = match headers.get(CONTENT_ENCODING) {
        None => return Ok(None),
        Some(value) => value.to_str().unwrap_or("?").trim(),
    };
    let mut plain = Vec::new();
    let most = limit as u64 + 1;
    let read = match encoding {
        "identity" | "" => return Ok(None),
        "gzip" | "x-gzip" => MultiGzDecoder::new(body).take(most).read_to_end(&mut plain),
        "deflate" => ZlibDecoder::new(body).take(most).read_to_end(&mut plain),
        other => {
            return Err(ProtocolError::BadRequest(format!(
                "the content encoding `{other}` is not known; gzip and deflate are"
            )));
        }
    };
    read.map_err(|error| {
        ProtocolError::BadRequest(format!("the body is no whole {encoding}: {error}"))
    })?;
    match plain.len() > limit {
        true => Err(ProtocolError::TooLarge(format!(
            "the body has more than {limit} bytes once it is decompressed, which is the limit"
        ))),
        false => Ok(Some(plain)),
    }
}

/// An answer compressed as its asker accepts it, and how; none if it stays as it is.
pub(crate) fn compressed(headers: &HeaderMap, body: &[u8]) -> Option<(&'static str, Vec<u8>)> {
    if body.len() < WORTH_IT {
        return None;
    }
    let accepted = headers.get(ACCEPT_ENCODING)?.to_str().ok()?;
    let accepts = |name: &str| {
        accepted.split(',').any(|one| {
            let (coding, weight) = one.split_once(';').unwrap_or((one, ""));
            let weight = weight.split(';').find_map(|one| one.trim().strip_prefix("q="));
            let weight = weight.and_then(|text| text.trim().parse::<f32>().ok());
            coding.trim() == name && weight != Some(0.0)
        })
    };
    if accepts("gzip") {
        let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 2), LEVEL);
        encoder.write_all(body).ok()?;
        return Some(("gzip", encoder.finish().ok()?));
    }
    if accepts("deflate") {
        let mut encoder = ZlibEncoder::new(Vec::with_capacity(body.len() / 2), LEVEL);
        encoder.write_all(body).ok()?;
        return Some(("deflate", encoder.finish().ok()?));
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn headers(name: http::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn what_is_compressed_reads_back_up_to_the_limit() {
        let body = vec![7; 5000];
        for coding in ["gzip", "deflate"] {
            let accepts = headers(ACCEPT_ENCODING, &format!("br, {coding};q=0.5"));
            let (found, small) = compressed(&accepts, &body).unwrap();
            assert_eq!(found, coding);
            let encoded = headers(CONTENT_ENCODING, coding);
            assert_eq!(decompressed(&encoded, &small, 5000).unwrap().unwrap(), body);
            let error = decompressed(&encoded, &small, 4999).unwrap_err();
            assert_eq!(error.status(), 413, "a bomb is refused");
            assert_eq!(decompressed(&encoded, &small[..9], 5000).unwrap_err().status(), 400);
        }
        for refuses in ["gzip;q=0", "gzip; q=0.0", "gzip;q=0;x=1", "br"] {
            assert!(compressed(&headers(ACCEPT_ENCODING, refuses), &body).is_none());
        }
        assert!(compressed(&headers(ACCEPT_ENCODING, "gzip"), b"small").is_none());
        let unknown = decompressed(&headers(CONTENT_ENCODING, "br"), &body, 5000).unwrap_err();
        assert!(unknown.to_string().contains("`br` is not known"));
    }
}
