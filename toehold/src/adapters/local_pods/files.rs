//! The SFTP server in a pod: version 3 with OpenSSH's extensions that clients ask for, on standard input and output.
//!
//! It is a process of the pod like any other, and may do what its user may: nothing is kept from it.

use std::collections::HashMap;
use std::fs::{self, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown, symlink,
};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use russh_sftp::protocol::{Attrs, Data, File, FileAttributes, Handle, Name, OpenFlags, Packet, Status, StatusCode, Version};
use russh_sftp::server::{Handler, StatusReply};
use tokio::sync::oneshot;

use crate::adapters::local_host::status as status_code;

const EXTENSIONS: [(&str, &str); 3] =
    [("fsync@openssh.com", "1"), ("hardlink@openssh.com", "1"), ("posix-rename@openssh.com", "1")];

/// The most files and directories that may be open.
const MAX_HANDLES: usize = 256;

/// The most bytes in an answer to a read, and names in an answer to a directory's listing.
const MAX_READ: u32 = 255 * 1024;
const MAX_NAMES: usize = 100;

/// Serves until the client has gone.
pub(super) fn serve_standard_streams() -> ExitCode {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return ExitCode::FAILURE };
    runtime.block_on(async {
        let (over, ended) = oneshot::channel();
        let stream = tokio::io::join(tokio::io::stdin(), tokio::io::stdout());
        russh_sftp::server::run(stream, Files { handles: HashMap::new(), next_handle: 0, _over: over }).await;
        // It is dropped when the stream has ended; nothing is ever sent.
        let _ = ended.await;
    });
    // A read of standard input that nobody will answer must not hold the process.
    runtime.shutdown_background();
    ExitCode::SUCCESS
}

struct Files {
    handles: HashMap<String, Open>,
    next_handle: u64,
    _over: oneshot::Sender<()>,
}

enum Open {
    File(fs::File),
    /// What is still to be told of a directory.
    Directory(Vec<File>),
}

type Answer<T> = Result<T, StatusReply>;

fn refused<T>(code: StatusCode) -> Answer<T> {
    Err(code.into())
}

fn status(error: io::Error) -> StatusReply {
    status_code(error).into()
}

fn done(id: u32) -> Status {
    Status { id, status_code: StatusCode::Ok, error_message: "Success".to_owned(), language_tag: String::new() }
}

fn attributes(metadata: &Metadata) -> FileAttributes {
    let seconds = |time: i64| u32::try_from(time).ok();
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

fn set_on(file: &fs::File, wanted: &FileAttributes) -> Answer<()> {
    if let Some(size) = wanted.size {
        file.set_len(size).map_err(status)?;
    }
    if let Some(mode) = wanted.permissions {
        file.set_permissions(Permissions::from_mode(mode & 0o7777)).map_err(status)?;
    }
    if let (Some(accessed), Some(modified)) = (wanted.atime, wanted.mtime) {
        let instant = |seconds: u32| -> SystemTime { UNIX_EPOCH + Duration::from_secs(seconds.into()) };
        let times = fs::FileTimes::new().set_accessed(instant(accessed)).set_modified(instant(modified));
        file.set_times(times).map_err(status)?;
    }
    Ok(())
}

fn set_at(path: &str, wanted: &FileAttributes) -> Answer<()> {
    if let (Some(user), Some(group)) = (wanted.uid, wanted.gid) {
        chown(path, Some(user), Some(group)).map_err(status)?;
    }
    if wanted.size.is_none() && wanted.permissions.is_none() && wanted.mtime.is_none() {
        return Ok(());
    }
    if let (None, Some(mode), None) = (wanted.size, wanted.permissions, wanted.mtime) {
        // Also where the file cannot be read.
        return fs::set_permissions(path, Permissions::from_mode(mode & 0o7777)).map_err(status);
    }
    let file = OpenOptions::new().write(wanted.size.is_some()).read(wanted.size.is_none()).open(path).map_err(status)?;
    set_on(&file, wanted)
}

/// The path with nothing of `.`, `..` and links left in it, as far as it is there.
fn real(path: &str) -> Answer<String> {
    let path = Path::new(if path.is_empty() { "." } else { path });
    let real = match path.canonicalize() {
        Ok(real) => real,
        // OpenSSH's lets the last part be missing.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return refused(StatusCode::NoSuchFile) };
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            parent.canonicalize().map_err(status)?.join(name)
        }
        Err(error) => return Err(status(error)),
    };
    real.into_os_string().into_string().map_err(|_| StatusCode::Failure.into())
}

/// Takes the next string of an extended request.
fn string(data: &mut &[u8]) -> Answer<String> {
    let taken = data.split_first_chunk::<4>().and_then(|(length, rest)| {
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (text, rest) = rest.split_at_checked(length)?;
        Some((String::from_utf8(text.to_vec()).ok()?, rest))
    });
    let (text, rest) = taken.ok_or(StatusCode::BadMessage)?;
    *data = rest;
    Ok(text)
}

impl Files {
    fn keep(&mut self, open: Open) -> Answer<String> {
        if self.handles.len() >= MAX_HANDLES {
            return refused(StatusCode::Failure);
        }
        let handle = self.next_handle.to_string();
        self.next_handle += 1;
        self.handles.insert(handle.clone(), open);
        Ok(handle)
    }

    fn file(&self, handle: &str) -> Answer<&fs::File> {
        match self.handles.get(handle) {
            Some(Open::File(file)) => Ok(file),
            _ => refused(StatusCode::Failure),
        }
    }
}

impl Handler for Files {
    type Error = StatusReply;

    fn unimplemented(&self) -> StatusReply {
        StatusCode::OpUnsupported.into()
    }

    async fn init(&mut self, _: u32, _: HashMap<String, String>) -> Answer<Version> {
        let mut version = Version::new();
        version.extensions.extend(EXTENSIONS.map(|(name, value)| (name.to_owned(), value.to_owned())));
        Ok(version)
    }

    async fn open(&mut self, id: u32, path: String, flags: OpenFlags, wanted: FileAttributes) -> Answer<Handle> {
        let write = flags.contains(OpenFlags::WRITE) && !flags.contains(OpenFlags::APPEND);
        let file = OpenOptions::new()
            .read(flags.contains(OpenFlags::READ))
            .write(write)
            .append(flags.contains(OpenFlags::APPEND))
            .create(flags.contains(OpenFlags::CREATE))
            .create_new(flags.contains(OpenFlags::CREATE | OpenFlags::EXCLUDE))
            .truncate(flags.contains(OpenFlags::TRUNCATE) && write)
            .mode(wanted.permissions.unwrap_or(0o666) & 0o7777)
            .open(path)
            .map_err(status)?;
        Ok(Handle { id, handle: self.keep(Open::File(file))? })
    }

    async fn close(&mut self, id: u32, handle: String) -> Answer<Status> {
        self.handles.remove(&handle).map(|_| done(id)).ok_or_else(|| StatusCode::Failure.into())
    }

    async fn read(&mut self, id: u32, handle: String, offset: u64, length: u32) -> Answer<Data> {
        let mut data = vec![0; usize::try_from(length.min(MAX_READ)).unwrap_or(0)];
        let got = self.file(&handle)?.read_at(&mut data, offset).map_err(status)?;
        data.truncate(got);
        if data.is_empty() { refused(StatusCode::Eof) } else { Ok(Data { id, data }) }
    }

    async fn write(&mut self, id: u32, handle: String, offset: u64, data: Vec<u8>) -> Answer<Status> {
        self.file(&handle)?.write_all_at(&data, offset).map_err(status)?;
        Ok(done(id))
    }

    async fn lstat(&mut self, id: u32, path: String) -> Answer<Attrs> {
        Ok(Attrs { id, attrs: attributes(&fs::symlink_metadata(path).map_err(status)?) })
    }

    async fn stat(&mut self, id: u32, path: String) -> Answer<Attrs> {
        Ok(Attrs { id, attrs: attributes(&fs::metadata(path).map_err(status)?) })
    }

    async fn fstat(&mut self, id: u32, handle: String) -> Answer<Attrs> {
        Ok(Attrs { id, attrs: attributes(&self.file(&handle)?.metadata().map_err(status)?) })
    }

    async fn setstat(&mut self, id: u32, path: String, wanted: FileAttributes) -> Answer<Status> {
        set_at(&path, &wanted)?;
        Ok(done(id))
    }

    async fn fsetstat(&mut self, id: u32, handle: String, wanted: FileAttributes) -> Answer<Status> {
        set_on(self.file(&handle)?, &wanted)?;
        Ok(done(id))
    }

    async fn opendir(&mut self, id: u32, path: String) -> Answer<Handle> {
        let own = attributes(&fs::metadata(&path).map_err(status)?);
        let above = fs::metadata(Path::new(&path).join("..")).map_err(status)?;
        let mut files = vec![File::new(".", own), File::new("..", attributes(&above))];
        for entry in fs::read_dir(path).map_err(status)? {
            let entry = entry.map_err(status)?;
            // One that is gone by now is none.
            if let Ok(metadata) = entry.metadata() {
                files.push(File::new(entry.file_name().to_string_lossy(), attributes(&metadata)));
            }
        }
        Ok(Handle { id, handle: self.keep(Open::Directory(files))? })
    }

    async fn readdir(&mut self, id: u32, handle: String) -> Answer<Name> {
        match self.handles.get_mut(&handle) {
            Some(Open::Directory(files)) if files.is_empty() => refused(StatusCode::Eof),
            Some(Open::Directory(files)) => Ok(Name { id, files: files.drain(..files.len().min(MAX_NAMES)).collect() }),
            _ => refused(StatusCode::Failure),
        }
    }

    async fn remove(&mut self, id: u32, path: String) -> Answer<Status> {
        fs::remove_file(path).map_err(status)?;
        Ok(done(id))
    }

    async fn mkdir(&mut self, id: u32, path: String, wanted: FileAttributes) -> Answer<Status> {
        let mode = wanted.permissions.unwrap_or(0o777) & 0o7777;
        fs::DirBuilder::new().mode(mode).create(path).map_err(status)?;
        Ok(done(id))
    }

    async fn rmdir(&mut self, id: u32, path: String) -> Answer<Status> {
        fs::remove_dir(path).map_err(status)?;
        Ok(done(id))
    }

    async fn realpath(&mut self, id: u32, path: String) -> Answer<Name> {
        Ok(Name { id, files: vec![File::dummy(real(&path)?)] })
    }

    async fn rename(&mut self, id: u32, from: String, to: String) -> Answer<Status> {
        if fs::symlink_metadata(&to).is_ok() {
            return refused(StatusCode::Failure);
        }
        fs::rename(from, to).map_err(status)?;
        Ok(done(id))
    }

    async fn readlink(&mut self, id: u32, path: String) -> Answer<Name> {
        let target = fs::read_link(path).map_err(status)?;
        Ok(Name { id, files: vec![File::dummy(target.to_string_lossy())] })
    }

    /// OpenSSH's client and server have the two the other way round than the draft, and everybody follows them.
    async fn symlink(&mut self, id: u32, target: String, link: String) -> Answer<Status> {
        symlink(target, link).map_err(status)?;
        Ok(done(id))
    }

    async fn extended(&mut self, id: u32, request: String, data: Vec<u8>) -> Answer<Packet> {
        let mut data = data.as_slice();
        match request.as_str() {
            "posix-rename@openssh.com" => fs::rename(string(&mut data)?, string(&mut data)?).map_err(status)?,
            "hardlink@openssh.com" => fs::hard_link(string(&mut data)?, string(&mut data)?).map_err(status)?,
            "fsync@openssh.com" => self.file(&string(&mut data)?)?.sync_all().map_err(status)?,
            _ => return Err(self.unimplemented()),
        }
        Ok(Packet::Status(done(id)))
    }
}
