//! Journals and leases in a folder of this machine.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use slsml_release::ports::{PortError, Store, Tag};

/// Objects as files. Whoever writes holds the folder's lock, and a file is replaced as a whole.
#[derive(Clone, Debug)]
pub(crate) struct FolderStore {
    folder: PathBuf,
}

impl FolderStore {
    pub(crate) fn new(folder: PathBuf) -> FolderStore {
        FolderStore { folder }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(key)
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, PortError> {
        match fs::read(self.path(key)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(&self.path(key), error)),
        }
    }

    /// Writes an object if what is there now is as expected.
    fn put(
        &self,
        key: &str,
        bytes: &[u8],
        expected: impl Fn(Option<&[u8]>) -> bool,
    ) -> Result<Option<Tag>, PortError> {
        let path = self.path(key);
        let fail = |error| failed(&path, error);
        let parent = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(parent).map_err(fail)?;
        let lock = File::create(self.folder.join("lock")).map_err(fail)?;
        lock.lock().map_err(fail)?;
        if !expected(self.get(key)?.as_deref()) {
            return Ok(None);
        }
        let new = path.with_extension("new");
        let mut file = File::create(&new).map_err(fail)?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(fail)?;
        fs::rename(&new, &path).map_err(fail)?;
        // The name is on the disk only when its folder is.
        File::open(parent).and_then(|folder| folder.sync_all()).map_err(fail)?;
        Ok(Some(tag(bytes)))
    }
}

/// An object's tag are its bytes: what is the same need not be told apart.
fn tag(bytes: &[u8]) -> Tag {
    Tag(String::from_utf8_lossy(bytes).into_owned())
}

fn failed(path: &Path, error: std::io::Error) -> PortError {
    PortError::Failed(format!("{}: {error}", path.display()).into())
}

impl Store for FolderStore {
    async fn read(&self, key: &str) -> Result<Option<(Vec<u8>, Tag)>, PortError> {
        Ok(self.get(key)?.map(|bytes| {
            let tag = tag(&bytes);
            (bytes, tag)
        }))
    }

    async fn create(&self, key: &str, bytes: &[u8]) -> Result<Option<Tag>, PortError> {
        self.put(key, bytes, |found| found.is_none())
    }

    async fn replace(&self, key: &str, bytes: &[u8], seen: &Tag) -> Result<Option<Tag>, PortError> {
        self.put(key, bytes, |found| found.is_some_and(|found| tag(found) == *seen))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, PortError> {
        let folder = self.path(prefix);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(&folder, error)),
        };
        let mut keys = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| failed(&folder, error))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.ends_with(".new") {
                keys.push(format!("{prefix}{name}"));
            }
        }
        keys.sort();
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn writes_happen_only_on_their_conditions() {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderStore::new(folder.path().to_owned());
        assert_eq!(store.read("a/b").await.unwrap(), None);
        let first = store.create("a/b", b"1").await.unwrap().unwrap();
        assert_eq!(store.create("a/b", b"2").await.unwrap(), None);
        let second = store.replace("a/b", b"2", &first).await.unwrap().unwrap();
        assert_eq!(store.replace("a/b", b"3", &first).await.unwrap(), None);
        assert_eq!(store.read("a/b").await.unwrap(), Some((b"2".to_vec(), second.clone())));
        assert_eq!(store.replace("a/c", b"3", &second).await.unwrap(), None);
        assert_eq!(store.list("a/").await.unwrap(), ["a/b"]);
        assert!(store.list("x/").await.unwrap().is_empty());
    }
}
