//! A directory of this machine as the files of a local host.

use std::collections::HashMap;
use std::fs::{self, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use russh_sftp::protocol::{File, FileAttributes, OpenFlags, StatusCode};

/// The most files and directories that a session may have open.
const MAX_HANDLES: usize = 100;

/// The most bytes in an answer to a read, and names in an answer to a directory's listing.
const MAX_READ: u32 = 256 * 1024;
const MAX_NAMES: usize = 100;

/// Nothing outside of one directory is reached, not over `..` and not over links.
///
/// Checks and uses of a path are apart in time, so this holds against clients, not against other processes that exchange
/// links meanwhile.
pub(super) struct Tree {
    root: PathBuf,
    /// Whether clients call the root `/`.
    chroot: bool,
    /// How far ahead of ours the clock is that its files' times come from, in seconds.
    clock_error: i32,
    handles: HashMap<String, Open>,
    next_handle: u32,
}

enum Open {
    File(fs::File),
    /// What is still to be told of a directory.
    Directory(Vec<File>),
}

type Answer<T> = Result<T, StatusCode>;

impl Tree {
    /// `root` is canonical.
    pub(super) fn new(root: PathBuf, chroot: bool, clock_error: i32) -> Self {
        Self { root, chroot, clock_error, handles: HashMap::new(), next_handle: 0 }
    }

    /// The path on this machine. Links on the way are resolved, one at the end only with `follow`.
    fn place(&self, path: &str, follow: bool) -> Answer<PathBuf> {
        if path.contains('\0') {
            return Err(StatusCode::BadMessage);
        }
        let mut clean = if path.starts_with('/') && !self.chroot { PathBuf::from("/") } else { self.root.clone() };
        for component in Path::new(path).components() {
            match component {
                Component::Normal(name) => clean.push(name),
                Component::ParentDir if !self.chroot || clean != self.root => {
                    clean.pop();
                }
                Component::ParentDir | Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        if clean == self.root {
            return Ok(clean);
        }
        let (Some(parent), Some(name)) = (clean.parent(), clean.file_name()) else {
            return Err(StatusCode::PermissionDenied);
        };
        if !parent.starts_with(&self.root) && !self.root.starts_with(parent) {
            return Err(StatusCode::PermissionDenied);
        }
        let mut place = parent.canonicalize().map_err(status)?.join(name);
        if follow && place.is_symlink() {
            place = place.canonicalize().map_err(status)?;
        }
        if place.starts_with(&self.root) { Ok(place) } else { Err(StatusCode::PermissionDenied) }
    }

    fn keep(&mut self, open: Open) -> Answer<String> {
        if self.handles.len() >= MAX_HANDLES {
            return Err(StatusCode::Failure);
        }
        let handle = self.next_handle.to_string();
        self.next_handle = self.next_handle.wrapping_add(1);
        self.handles.insert(handle.clone(), open);
        Ok(handle)
    }

    fn attributes(&self, metadata: &Metadata) -> FileAttributes {
        let seconds = |time: i64| u32::try_from(time.saturating_add(self.clock_error.into())).ok();
        FileAttributes {
            size: Some(metadata.len()),
            uid: Some(metadata.uid()),
            gid: Some(metadata.gid()),
            permissions: Some(metadata.mode()),
            atime: seconds(metadata.atime()),
            mtime: seconds(metadata.mtime()),
            ..FileAttributes::empty()
        }
    }

    fn file(&self, handle: &str) -> Answer<&fs::File> {
        match self.handles.get(handle) {
            Some(Open::File(file)) => Ok(file),
            _ => Err(StatusCode::Failure),
        }
    }

    pub(super) fn open(&mut self, path: &str, flags: OpenFlags, attributes: &FileAttributes) -> Answer<String> {
        let exclusive = flags.contains(OpenFlags::CREATE | OpenFlags::EXCLUDE);
        let place = self.place(path, !exclusive)?;
        let file = OpenOptions::new()
            .read(flags.contains(OpenFlags::READ))
            .write(flags.contains(OpenFlags::WRITE))
            .create(flags.contains(OpenFlags::CREATE))
            .create_new(exclusive)
            .truncate(flags.contains(OpenFlags::TRUNCATE) && flags.contains(OpenFlags::WRITE))
            .mode(attributes.permissions.unwrap_or(0o666) & 0o777)
            .open(place)
            .map_err(status)?;
        self.keep(Open::File(file))
    }

    pub(super) fn close(&mut self, handle: &str) -> Answer<()> {
        self.handles.remove(handle).map(drop).ok_or(StatusCode::Failure)
    }

    pub(super) fn read(&self, handle: &str, offset: u64, length: u32) -> Answer<Vec<u8>> {
        let mut data = vec![0; usize::try_from(length.min(MAX_READ)).unwrap_or(0)];
        let got = self.file(handle)?.read_at(&mut data, offset).map_err(status)?;
        data.truncate(got);
        if data.is_empty() { Err(StatusCode::Eof) } else { Ok(data) }
    }

    pub(super) fn write(&self, handle: &str, offset: u64, data: &[u8]) -> Answer<()> {
        self.file(handle)?.write_all_at(data, offset).map_err(status)
    }

    pub(super) fn sync(&self, handle: &str) -> Answer<()> {
        self.file(handle)?.sync_all().map_err(status)
    }

    pub(super) fn stat(&self, path: &str, follow: bool) -> Answer<FileAttributes> {
        let metadata = fs::symlink_metadata(self.place(path, follow)?).map_err(status)?;
        Ok(self.attributes(&metadata))
    }

    pub(super) fn stat_handle(&self, handle: &str) -> Answer<FileAttributes> {
        Ok(self.attributes(&self.file(handle)?.metadata().map_err(status)?))
    }

    pub(super) fn set_attributes(&self, path: &str, attributes: &FileAttributes) -> Answer<()> {
        let place = self.place(path, true)?;
        let file = OpenOptions::new().write(attributes.size.is_some()).read(true).open(place).map_err(status)?;
        set(&file, attributes)
    }

    pub(super) fn set_attributes_of_handle(&self, handle: &str, attributes: &FileAttributes) -> Answer<()> {
        set(self.file(handle)?, attributes)
    }

    pub(super) fn open_directory(&mut self, path: &str) -> Answer<String> {
        let place = self.place(path, true)?;
        let mut files = vec![File::new(".", self.attributes(&fs::metadata(&place).map_err(status)?)), File::dummy("..")];
        for entry in fs::read_dir(place).map_err(status)? {
            let entry = entry.map_err(status)?;
            // One that is gone by now is none.
            if let Ok(metadata) = entry.metadata() {
                files.push(File::new(entry.file_name().to_string_lossy(), self.attributes(&metadata)));
            }
        }
        self.keep(Open::Directory(files))
    }

    pub(super) fn read_directory(&mut self, handle: &str) -> Answer<Vec<File>> {
        match self.handles.get_mut(handle) {
            Some(Open::Directory(files)) if files.is_empty() => Err(StatusCode::Eof),
            Some(Open::Directory(files)) => Ok(files.drain(..files.len().min(MAX_NAMES)).collect()),
            _ => Err(StatusCode::Failure),
        }
    }

    pub(super) fn remove(&self, path: &str) -> Answer<()> {
        fs::remove_file(self.place(path, false)?).map_err(status)
    }

    pub(super) fn make_directory(&self, path: &str, attributes: &FileAttributes) -> Answer<()> {
        let mode = attributes.permissions.unwrap_or(0o777) & 0o777;
        fs::DirBuilder::new().mode(mode).create(self.place(path, false)?).map_err(status)
    }

    pub(super) fn remove_directory(&self, path: &str) -> Answer<()> {
        fs::remove_dir(self.place(path, false)?).map_err(status)
    }

    pub(super) fn rename(&self, from: &str, to: &str, replace: bool) -> Answer<()> {
        let (from, to) = (self.place(from, false)?, self.place(to, false)?);
        if !replace && fs::symlink_metadata(&to).is_ok() {
            return Err(StatusCode::Failure);
        }
        fs::rename(from, to).map_err(status)
    }

    pub(super) fn real_path(&self, path: &str) -> Answer<String> {
        let place = self.place(path, true)?;
        let shown = if self.chroot {
            Path::new("/").join(place.strip_prefix(&self.root).map_err(|_| StatusCode::PermissionDenied)?)
        } else {
            place
        };
        shown.into_os_string().into_string().map_err(|_| StatusCode::Failure)
    }
}

fn set(file: &fs::File, attributes: &FileAttributes) -> Answer<()> {
    if let Some(size) = attributes.size {
        file.set_len(size).map_err(status)?;
    }
    if let Some(mode) = attributes.permissions {
        file.set_permissions(Permissions::from_mode(mode & 0o7777)).map_err(status)?;
    }
    Ok(())
}

/// The status that OpenSSH's server gives for an error (`errno_to_portable`).
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(in crate::adapters) fn status(error: io::Error) -> StatusCode {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => StatusCode::NoSuchFile,
        io::ErrorKind::PermissionDenied => StatusCode::PermissionDenied,
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidFilename => StatusCode::BadMessage,
        io::ErrorKind::Unsupported => StatusCode::OpUnsupported,
        _ => StatusCode::Failure,
    }
}
