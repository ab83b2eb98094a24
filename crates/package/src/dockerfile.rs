//! A Dockerfile that makes the image slsml makes, with what it copies: for those who must build with one.

use std::path::Path;

use slsml_model::{MANIFEST_FILE, MODEL_FILE};

use crate::image::{MODEL_FOLDER, SERVER, USER, annotations, oci};
use crate::{ImageParts, WriteError};

/// The folder with it, beside the artifact's record.
pub const DOCKERFILE_FOLDER: &str = "docker";

fn text(parts: &ImageParts<'_>) -> String {
    let mut labels: Vec<_> = annotations(parts).into_iter().collect();
    labels.sort();
    let labels = labels.iter().map(|(key, value)| format!("{key}={}", quoted(value)));
    // A default would hold against the platform that is built for, so there is none.
    let (declared, from) = match parts.programs {
        [(only, _)] => ("", oci(*only).to_string()),
        _ => ("ARG TARGETARCH\n", "${TARGETARCH}".into()),
    };
    format!(
        "FROM scratch AS program\n\
         {declared}\
         COPY {from}/{SERVER} /{SERVER}\n\
         \n\
         FROM scratch AS model\n\
         COPY {MODEL_FOLDER} /{MODEL_FOLDER}\n\
         \n\
         FROM scratch\n\
         LABEL {labels}\n\
         COPY --from=program /{SERVER} /{SERVER}\n\
         COPY --from=model /{MODEL_FOLDER} /{MODEL_FOLDER}\n\
         ENV SLSML_MODEL_DIR=/{MODEL_FOLDER}\n\
         WORKDIR /\n\
         USER {USER}:{USER}\n\
         EXPOSE 8080\n\
         STOPSIGNAL SIGTERM\n\
         ENTRYPOINT [\"/{SERVER}\"]\n",
        labels = labels.collect::<Vec<_>>().join(" \\\n      "),
    )
}

/// A value as a Dockerfile reads it: no variable is filled in, nothing ends the line.
fn quoted(value: &str) -> String {
    let mut text = String::from("\"");
    for letter in value.chars().filter(|letter| !letter.is_control()) {
        if matches!(letter, '"' | '\\' | '$') {
            text.push('\\');
        }
        text.push(letter);
    }
    text.push('"');
    text
}

/// Writes the files into a new folder.
pub(crate) fn write(parts: &ImageParts<'_>, folder: &Path) -> Result<(), WriteError> {
    use std::os::unix::fs::PermissionsExt;
    let text = text(parts);
    let mut files = vec![
        ("Dockerfile".to_owned(), text.as_bytes(), 0o644),
        (format!("{MODEL_FOLDER}/{MANIFEST_FILE}"), parts.manifest, 0o644),
        (format!("{MODEL_FOLDER}/{MODEL_FILE}"), parts.model, 0o644),
    ];
    let programs = parts.programs.iter();
    files.extend(programs.map(|(arch, bytes)| (format!("{}/{SERVER}", oci(*arch)), *bytes, 0o755)));
    for (path, bytes, mode) in files {
        let path = folder.join(path);
        let written = || {
            std::fs::create_dir_all(path.parent().unwrap_or(folder))?;
            std::fs::write(&path, bytes)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))
        };
        written().map_err(|source| WriteError::Io { path: path.clone(), source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_label_says_stays_a_label() {
        assert_eq!(quoted("a b"), "\"a b\"");
        assert_eq!(quoted("$HOME \"x\" \\\nRUN rm"), "\"\\$HOME \\\"x\\\" \\\\RUN rm\"");
    }
}
