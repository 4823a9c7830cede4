//! The bell of a driver wakes an event loop that waits only for connections that it has opened itself, as nginx's Lua
//! does. The loop connects to an address that exists for this moment alone, and proves by a secret that it is this
//! process. From then on, whenever the loop waits and a link becomes ready, one byte comes.

use std::io::{self, ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
#[cfg(unix)]
use std::{
    fs::{DirBuilder, remove_dir, remove_file},
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
};

use socket2::{Domain, SockAddr, Socket, Type};

use super::lock;
use crate::net::{SIGNAL_FREE, random_bytes};

/// The address that the loop connects to, and the secret that it sends.
pub struct Address {
    /// The path of a Unix socket, or an IP address.
    pub host: String,
    /// The port of an IP address.
    pub port: Option<u16>,
    /// The secret by which this process proves itself.
    pub secret: String,
}

#[derive(Default)]
pub(super) struct Bell {
    /// The loop waits, and no byte has been sent since.
    armed: AtomicBool,
    rope: Mutex<Rope>,
}

/// The connection to the loop.
#[derive(Default)]
enum Rope {
    #[default]
    None,
    /// The loop is to connect.
    Offered {
        listener: Socket,
        secret: String,
        _place: Option<Place>,
    },
    Held(Socket),
}

/// A socket's file, in a directory that only this user can enter. Both go with this value.
#[cfg(unix)]
struct Place(PathBuf);
#[cfg(windows)]
enum Place {}

#[cfg(unix)]
impl Place {
    fn new(name: &str) -> io::Result<Place> {
        let directory = std::env::temp_dir().join(format!("mqtt-{name}"));
        DirBuilder::new().mode(0o700).create(&directory)?;
        Ok(Place(directory))
    }

    fn socket(&self) -> PathBuf {
        self.0.join("bell")
    }
}

#[cfg(unix)]
impl Drop for Place {
    fn drop(&mut self) {
        let _ = remove_file(self.socket());
        let _ = remove_dir(&self.0);
    }
}

impl Bell {
    /// Offers an address for the loop to connect to. An earlier address or connection is gone.
    pub(super) fn hang(&self) -> io::Result<Address> {
        let secret = hex()?;
        // Where no directory can be made, only the secret keeps others out.
        let (listener, address, place) =
            on_path().or_else(|_| on_loopback().map(|(listener, port)| (listener, port, None)))?;
        listener.set_nonblocking(true)?;
        listener.listen(8)?;
        let (host, port) = match address.as_socket() {
            Some(at) => (at.ip().to_string(), Some(at.port())),
            None => {
                #[cfg(windows)]
                let path: Option<&str> = None;
                #[cfg(unix)]
                let path = address.as_pathname().and_then(|path| path.to_str());
                (path.ok_or(ErrorKind::InvalidInput)?.to_owned(), None)
            }
        };
        *lock(&self.rope) = Rope::Offered {
            listener,
            secret: secret.clone(),
            _place: place,
        };
        Ok(Address { host, port, secret })
    }

    /// Takes the loop's connection, on which the loop has sent the secret. The address is gone then. Returns whether
    /// there is a connection.
    pub(super) fn take(&self) -> bool {
        let mut rope = lock(&self.rope);
        let mut taken = Rope::None;
        if let Rope::Offered {
            listener, secret, ..
        } = &*rope
        {
            while let Ok((peer, _)) = listener.accept() {
                let mut said = vec![0; secret.len()];
                let is_ours = peer.set_nonblocking(true).is_ok()
                    && (&peer).read_exact(&mut said).is_ok()
                    && said == secret.as_bytes();
                if is_ours {
                    taken = Rope::Held(peer);
                    break;
                }
            }
        }
        *rope = taken;
        matches!(*rope, Rope::Held(_))
    }

    /// The loop is about to wait. The next ring sends a byte.
    pub(super) fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    /// The loop will not wait after all. Returns false if a byte is already under way.
    pub(super) fn disarm(&self) -> bool {
        self.armed.swap(false, Ordering::SeqCst)
    }

    /// A link is ready, and on the list that the loop reads after [`Bell::arm`].
    pub(super) fn ring(&self) {
        if self.armed.load(Ordering::SeqCst)
            && self.disarm()
            && let Rope::Held(peer) = &*lock(&self.rope)
        {
            // There is room for one byte. If the loop is gone, it will not wait again.
            let _ = peer.send_with_flags(&[1], SIGNAL_FREE);
        }
    }
}

#[cfg(windows)]
fn on_path() -> io::Result<(Socket, SockAddr, Option<Place>)> {
    Err(ErrorKind::Unsupported.into())
}

#[cfg(unix)]
fn on_path() -> io::Result<(Socket, SockAddr, Option<Place>)> {
    let place = Place::new(&hex()?)?;
    let address = SockAddr::unix(place.socket())?;
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    listener.bind(&address)?;
    Ok((listener, address, Some(place)))
}

fn on_loopback() -> io::Result<(Socket, SockAddr)> {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

fn hex() -> io::Result<String> {
    let bytes = random_bytes::<16>()?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;
    use std::path::Path;

    use super::*;

    fn said(stream: &mut UnixStream) -> Vec<u8> {
        stream.set_nonblocking(true).unwrap();
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        bytes
    }

    #[test]
    fn whoever_knows_the_secret_is_told_once_each_time_that_it_waits() {
        let bell = Bell::default();
        let address = bell.hang().unwrap();
        let directory = Path::new(&address.host).parent().unwrap().to_owned();
        let mode = directory.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let mut stranger = UnixStream::connect(&address.host).unwrap();
        stranger.write_all(&[b'0'; 32]).unwrap();
        let mut own = UnixStream::connect(&address.host).unwrap();
        own.write_all(address.secret.as_bytes()).unwrap();
        assert!(bell.take());
        assert!(!directory.exists());
        bell.ring();
        assert_eq!(said(&mut own), b"");
        bell.arm();
        bell.ring();
        bell.ring();
        assert_eq!(said(&mut own), [1]);
        bell.arm();
        assert!(bell.disarm());
        bell.ring();
        assert_eq!(said(&mut own), b"");
        assert_eq!(said(&mut stranger), b"");
    }

    #[test]
    fn nobody_is_taken_who_does_not_know_the_secret() {
        let bell = Bell::default();
        let address = bell.hang().unwrap();
        UnixStream::connect(&address.host).unwrap();
        assert!(!bell.take());
        assert!(!Path::new(&address.host).exists());
    }

    #[test]
    fn the_loopback_takes_the_place_of_a_directory() {
        let (_listener, address) = on_loopback().unwrap();
        let address = address.as_socket().unwrap();
        assert!(address.ip().is_loopback() && address.port() != 0);
    }
}
