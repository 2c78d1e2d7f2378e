//! The SFTP server of a local host: version 3 and two of OpenSSH's extensions.

use std::collections::HashMap;

use russh_sftp::protocol::{Attrs, Data, File, FileAttributes, Handle, Name, OpenFlags, Packet, Status, StatusCode, Version};
use russh_sftp::server::{Handler, StatusReply};

use super::connection::Gate;
use super::tree::Tree;

const POSIX_RENAME: &str = "posix-rename@openssh.com";
const FSYNC: &str = "fsync@openssh.com";

/// One SFTP session.
pub(super) struct Sftp {
    gate: Gate,
    tree: Tree,
    posix_rename: bool,
    fsync: bool,
}

impl Sftp {
    pub(super) fn new(gate: Gate, tree: Tree, posix_rename: bool, fsync: bool) -> Self {
        Self { gate, tree, posix_rename, fsync }
    }

    async fn serve<T>(&mut self, work: impl FnOnce(&mut Tree) -> Result<T, StatusCode> + Send) -> Result<T, StatusReply> {
        let Self { gate, tree, .. } = self;
        // Nobody is there any more to read what is answered without a turn.
        gate.pass(|| work(tree)).await.unwrap_or(Err(StatusCode::ConnectionLost)).map_err(StatusReply::from)
    }

    async fn done(
        &mut self,
        id: u32,
        work: impl FnOnce(&mut Tree) -> Result<(), StatusCode> + Send,
    ) -> Result<Status, StatusReply> {
        self.serve(work).await?;
        let (error_message, language_tag) = ("Success".to_owned(), String::new());
        Ok(Status { id, status_code: StatusCode::Ok, error_message, language_tag })
    }
}

/// Takes the next string of an extended request.
fn string(data: &mut &[u8]) -> Result<String, StatusCode> {
    let (length, rest) = data.split_first_chunk::<4>().ok_or(StatusCode::BadMessage)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| StatusCode::BadMessage)?;
    let (text, rest) = rest.split_at_checked(length).ok_or(StatusCode::BadMessage)?;
    *data = rest;
    String::from_utf8(text.to_vec()).map_err(|_| StatusCode::BadMessage)
}

impl Handler for Sftp {
    type Error = StatusReply;

    fn unimplemented(&self) -> StatusReply {
        StatusCode::OpUnsupported.into()
    }

    async fn init(&mut self, _: u32, _: HashMap<String, String>) -> Result<Version, StatusReply> {
        let mut version = Version::new();
        for (name, offered) in [(POSIX_RENAME, self.posix_rename), (FSYNC, self.fsync)] {
            if offered {
                version.extensions.insert(name.to_owned(), "1".to_owned());
            }
        }
        Ok(version)
    }

    async fn open(&mut self, id: u32, path: String, flags: OpenFlags, attrs: FileAttributes) -> Result<Handle, StatusReply> {
        let handle = self.serve(move |tree| tree.open(&path, flags, &attrs)).await?;
        Ok(Handle { id, handle })
    }

    async fn close(&mut self, id: u32, handle: String) -> Result<Status, StatusReply> {
        self.done(id, move |tree| tree.close(&handle)).await
    }

    async fn read(&mut self, id: u32, handle: String, offset: u64, length: u32) -> Result<Data, StatusReply> {
        let data = self.serve(move |tree| tree.read(&handle, offset, length)).await?;
        Ok(Data { id, data })
    }

    async fn write(&mut self, id: u32, handle: String, offset: u64, data: Vec<u8>) -> Result<Status, StatusReply> {
        self.done(id, move |tree| tree.write(&handle, offset, &data)).await
    }

    async fn lstat(&mut self, id: u32, path: String) -> Result<Attrs, StatusReply> {
        let attrs = self.serve(move |tree| tree.stat(&path, false)).await?;
        Ok(Attrs { id, attrs })
    }

    async fn stat(&mut self, id: u32, path: String) -> Result<Attrs, StatusReply> {
        let attrs = self.serve(move |tree| tree.stat(&path, true)).await?;
        Ok(Attrs { id, attrs })
    }

    async fn fstat(&mut self, id: u32, handle: String) -> Result<Attrs, StatusReply> {
        let attrs = self.serve(move |tree| tree.stat_handle(&handle)).await?;
        Ok(Attrs { id, attrs })
    }

    async fn setstat(&mut self, id: u32, path: String, attrs: FileAttributes) -> Result<Status, StatusReply> {
        self.done(id, move |tree| tree.set_attributes(&path, &attrs)).await
    }

    async fn fsetstat(&mut self, id: u32, handle: String, attrs: FileAttributes) -> Result<Status, StatusReply> {
        self.done(id, move |tree| tree.set_attributes_of_handle(&handle, &attrs)).await
    }

    async fn opendir(&mut self, id: u32, path: String) -> Result<Handle, StatusReply> {
        let handle = self.serve(move |tree| tree.open_directory(&path)).await?;
        Ok(Handle { id, handle })
    }

    async fn readdir(&mut self, id: u32, handle: String) -> Result<Name, StatusReply> {
        let files = self.serve(move |tree| tree.read_directory(&handle)).await?;
        Ok(Name { id, files })
    }

    async fn remove(&mut self, id: u32, path: String) -> Result<Status, StatusReply> {
        self.done(id, move |tree| tree.remove(&path)).await
    }

    async fn mkdir(&mut self, id: u32, path: String, attrs: FileAttributes) -> Result<Status, StatusReply> {
        self.done(id, move |tree| tree.make_directory(&path, &attrs)).await
    }

    async fn rmdir(&mut self, id: u32, path: String) -> Result<Status, StatusReply> {
        self.done(id, move |tree| tree.remove_directory(&path)).await
    }

    async fn realpath(&mut self, id: u32, path: String) -> Result<Name, StatusReply> {
        let path = self.serve(move |tree| tree.real_path(&path)).await?;
        Ok(Name { id, files: vec![File::dummy(path)] })
    }

    async fn rename(&mut self, id: u32, from: String, to: String) -> Result<Status, StatusReply> {
        self.done(id, move |tree| tree.rename(&from, &to, false)).await
    }

    async fn extended(&mut self, id: u32, request: String, data: Vec<u8>) -> Result<Packet, StatusReply> {
        let mut data = data.as_slice();
        match request.as_str() {
            POSIX_RENAME if self.posix_rename => {
                let (from, to) = (string(&mut data)?, string(&mut data)?);
                self.done(id, move |tree| tree.rename(&from, &to, true)).await.map(Packet::Status)
            }
            FSYNC if self.fsync => {
                let handle = string(&mut data)?;
                self.done(id, move |tree| tree.sync(&handle)).await.map(Packet::Status)
            }
            _ => Err(self.unimplemented()),
        }
    }
}
